# nnlua.  `make` builds, `make mnist` trains, `make test` tests; `make help` lists the rest.

ifeq ($(origin CC),default)
CC := gcc
endif
AR ?= ar
V ?=
SAY = $(if $(V),,@printf '  %-6s %s\n' $(1) $(2);)
BUILD ?= build
PREFIX ?= /usr/local
BLAS ?= openblas
LUA ?= lua5.4
PKG_CONFIG ?= pkg-config
SANITIZE ?=
OPT ?= -O2 -g

VERSION := 0.1.0
ARCH := $(shell $(CC) -dumpmachine)

has = $(shell $(PKG_CONFIG) --exists $(1) 2>/dev/null && echo yes)

# ---- flags
WARN := -Wall -Wextra -Wconversion -Wshadow -Wvla -Wno-sign-conversion -Werror
BASE_FLAGS := -std=gnu11 $(WARN) -fPIC -fvisibility=hidden -fno-math-errno -fno-trapping-math -ffp-contract=off \
              -pthread -I$(BUILD)/gen -Iruntime $(SANITIZE)
CFLAGS_ALL = $(BASE_FLAGS) $(OPT) $(CFLAGS)
LIBS := -lm -pthread

LUA_CFLAGS := $(shell $(PKG_CONFIG) --cflags lua5.4 2>/dev/null || echo -I/usr/include/lua5.4)
LUA_LIBS := $(shell $(PKG_CONFIG) --libs lua5.4 2>/dev/null || echo -llua5.4)

ifeq ($(BLAS),openblas)
  ifneq ($(call has,openblas),)
    DEFS += -DNNL_BLAS=1 $(shell $(PKG_CONFIG) --cflags openblas)
    LIBS += $(shell $(PKG_CONFIG) --libs openblas)
  endif
else ifneq ($(BLAS),none)
  $(error BLAS=$(BLAS) is unknown: openblas or none)
endif
ifneq ($(call has,zlib),)
  DEFS += -DNNL_HAVE_ZLIB=1
  LIBS += -lz
endif
ifneq ($(call has,libedit),)
  EDIT_DEFS := -DNNL_HAVE_LIBEDIT=1 $(shell $(PKG_CONFIG) --cflags libedit)
  EDIT_LIBS := $(shell $(PKG_CONFIG) --libs libedit)
endif

# ---- instruction sets
ISAS := base
ISA_FLAGS_base :=
ifneq ($(filter x86_64%,$(ARCH)),)
  ISAS += avx2 avx512
  ISA_FLAGS_avx2 := -mavx2 -mfma -mf16c
  ISA_FLAGS_avx512 := -mavx512f -mavx512dq -mavx512bw -mavx512vl -mavx2 -mfma -mf16c -mprefer-vector-width=512
  DEFS += -DNNL_HAVE_AVX2=1 -DNNL_HAVE_AVX512=1
endif
ifneq ($(filter aarch64%,$(ARCH)),)
  ISAS += neon
  DEFS += -DNNL_HAVE_NEON=1
endif

# ---- files
ROOMS := base tensor ops engine program data formats
RUNTIME := $(foreach room,$(ROOMS),$(wildcard runtime/$(room)/*.c)) runtime/kernels/select.c
KERNELS := $(filter-out runtime/kernels/select.c,$(wildcard runtime/kernels/*.c))
GLUE := $(filter-out bindings/nnlua.c bindings/repl.c bindings/module.c,$(wildcard bindings/*.c))
LUA_SOURCES := $(shell find bindings/nnlua -name '*.lua' 2>/dev/null | sort)

OBJ := $(BUILD)/obj
RUNTIME_O := $(RUNTIME:%.c=$(OBJ)/%.o)
KERNEL_O := $(foreach isa,$(ISAS),$(KERNELS:runtime/kernels/%.c=$(OBJ)/kernels/%.$(isa).o))
GLUE_O := $(GLUE:%.c=$(OBJ)/%.o) $(OBJ)/embedded.o
LIB_O := $(RUNTIME_O) $(KERNEL_O)

.PHONY: all help test mnist clean
all: $(BUILD)/nnlua $(BUILD)/nnlua.so $(BUILD)/libnnlua.a $(BUILD)/libnnlua.so

# ---- generated
OPS_C := $(wildcard runtime/ops/*.c)
$(BUILD)/gen/op_list.h: $(OPS_C)
	@mkdir -p $(@D)
	@grep -ho '^NNL_OP([a-z0-9_]*' $(sort $(OPS_C)) | sed 's/NNL_OP(\(.*\)/X(\1)/' | LC_ALL=C sort > $@.new
	@cmp -s $@.new $@ && rm $@.new || mv $@.new $@

$(BUILD)/gen/embedded.c: scripts/embed.sh $(LUA_SOURCES)
	@mkdir -p $(@D)
	sh scripts/embed.sh $(LUA_SOURCES) > $@.new && mv $@.new $@

# ---- compiling
$(OBJ)/runtime/%.o: runtime/%.c $(BUILD)/gen/op_list.h
	@mkdir -p $(@D)
	$(call SAY,CC,$@)$(CC) $(CFLAGS_ALL) $(DEFS) -MMD -MP -c $< -o $@

define kernel_rule
$(OBJ)/kernels/%.$(1).o: runtime/kernels/%.c
	@mkdir -p $$(@D)
	$$(call SAY,CC,$$@)$(CC) $(BASE_FLAGS) -O3 $(ISA_FLAGS_$(1)) $(CFLAGS) -DNNL_ISA_NAME=$(1) -MMD -MP -c $$< -o $$@
endef
$(foreach isa,$(ISAS),$(eval $(call kernel_rule,$(isa))))

$(OBJ)/bindings/%.o: bindings/%.c $(BUILD)/gen/op_list.h
	@mkdir -p $(@D)
	$(call SAY,CC,$@)$(CC) $(CFLAGS_ALL) $(DEFS) $(EDIT_DEFS) $(LUA_CFLAGS) -Ibindings -MMD -MP -c $< -o $@

$(OBJ)/embedded.o: $(BUILD)/gen/embedded.c
	@mkdir -p $(@D)
	$(call SAY,CC,$@)$(CC) $(CFLAGS_ALL) -c $< -o $@

# ---- linking
$(BUILD)/libnnlua.a: $(LIB_O)
	@rm -f $@
	$(call SAY,AR,$@)$(AR) rcs $@ $^

$(BUILD)/libnnlua.so: $(LIB_O)
	$(call SAY,LINK,$@)$(CC) -shared $(SANITIZE) -Wl,-soname,libnnlua.so.0 -Wl,--no-undefined -o $@ $^ $(LIBS)

$(BUILD)/nnlua.so: $(GLUE_O) $(OBJ)/bindings/module.o $(LIB_O)
	$(call SAY,LINK,$@)$(CC) -shared $(SANITIZE) -o $@ $^ $(LIBS)

$(BUILD)/nnlua: $(OBJ)/bindings/nnlua.o $(OBJ)/bindings/repl.o $(GLUE_O) $(LIB_O)
	$(call SAY,LINK,$@)$(CC) $(SANITIZE) -Wl,-E -o $@ $^ $(LIBS) $(LUA_LIBS) $(EDIT_LIBS)

clean:
	rm -rf $(BUILD)

-include $(shell find $(OBJ) -name '*.d' 2>/dev/null)
