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
KERNEL_OPT ?=
OPT ?= -O2 -g -DNDEBUG

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

# Only for spec/gemm.c and scripts/bench/gemm.c, which compare: the library has products of its own.
ifeq ($(BLAS),openblas)
  ifneq ($(call has,openblas),)
    BLAS_DEFS := -DNNL_BLAS=1 $(shell $(PKG_CONFIG) --cflags openblas)
    BLAS_LIBS := $(shell $(PKG_CONFIG) --libs openblas)
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
# The reference, and for processors without AVX2: a quarter of a megabyte smaller.
ISA_OPT_base := -O2
# Loops that the compiler makes vectors of: -O3 writes them out in more variants, as fast and a sixth of a megabyte larger.
PLAIN_LOOPS := map_compare map_integer
PLAIN_OPT := -O2 -ftree-vectorize
# Nothing is thrown or unwound through a kernel: an eighth of a megabyte. Debuggers read the debug information.
KERNEL_FLAGS := -fno-asynchronous-unwind-tables -fno-unwind-tables
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
LUA_SOURCES := $(shell find bindings/nnlua -name '*.lua' -o -name '*.idx' 2>/dev/null | LC_ALL=C sort)

OBJ := $(BUILD)/obj
RUNTIME_O := $(RUNTIME:%.c=$(OBJ)/%.o)
KERNEL_O := $(foreach isa,$(ISAS),$(KERNELS:runtime/kernels/%.c=$(OBJ)/kernels/%.$(isa).o))
GLUE_O := $(GLUE:%.c=$(OBJ)/%.o) $(OBJ)/embedded.o
LIB_O := $(RUNTIME_O) $(KERNEL_O)

# What was compiled how, and of which files: what stands in these notes changed means that it is compiled or linked again.
FLAGS_NOTE := $(BUILD)/gen/flags
FILES_NOTE := $(BUILD)/gen/files

.PHONY: FORCE all help test mnist install uninstall check check-all clean c-specs asan ubsan asan-build asan-c-specs tsan isa \
        oom ulp deps fmt lint bench bench-ops bench-curves valgrind symbols annotations
.DEFAULT_GOAL := all
all: $(BUILD)/nnlua $(BUILD)/nnlua.so $(BUILD)/libnnlua.a $(BUILD)/libnnlua.so $(BUILD)/libnnlua_lua.a

# ---- generated
# note TEXT: the target, written only when its text is another one.
note = @mkdir -p $(@D); printf '%s\n' '$(subst ','\'',$(1))' > $@.new; cmp -s $@.new $@ && rm $@.new || mv $@.new $@
$(FLAGS_NOTE): FORCE
	$(call note,$(CC) $(CFLAGS_ALL) $(DEFS) $(EDIT_DEFS) $(LUA_CFLAGS) \
	  $(KERNEL_FLAGS) $(PLAIN_OPT) $(foreach isa,$(ISAS),$(ISA_FLAGS_$(isa))) $(LIBS) $(LUA_LIBS) $(EDIT_LIBS) $(AR))
$(FILES_NOTE): FORCE
	$(call note,$(LIB_O) $(GLUE_O) $(LUA_SOURCES))

OPS_C := $(wildcard runtime/ops/*.c)
$(BUILD)/gen/op_list.h: $(OPS_C)
	@mkdir -p $(@D)
	@grep -ho '^NNL_OP([a-z0-9_]*' $(sort $(OPS_C)) | sed 's/NNL_OP(\(.*\)/X(\1)/' | LC_ALL=C sort > $@.new
	@cmp -s $@.new $@ && rm $@.new || mv $@.new $@

# Which file an op stands in is its family in the help.
$(BUILD)/gen/op_files.h: $(OPS_C)
	@mkdir -p $(@D)
	@grep -o '^NNL_OP([a-z0-9_]*' $(sort $(OPS_C)) | sed 's|.*/\(.*\)\.c:NNL_OP(\(.*\)|X(\2, \1)|' > $@.new
	@cmp -s $@.new $@ && rm $@.new || mv $@.new $@

$(BUILD)/gen/embedded.c: scripts/embed.sh $(LUA_SOURCES) $(FILES_NOTE)
	@mkdir -p $(@D)
	LUA=$(LUA) sh scripts/embed.sh $(LUA_SOURCES) > $@.new && mv $@.new $@

# ---- compiling
$(OBJ)/runtime/%.o: runtime/%.c $(BUILD)/gen/op_list.h $(FLAGS_NOTE)
	@mkdir -p $(@D)
	$(call SAY,CC,$@)$(CC) $(CFLAGS_ALL) $(DEFS) -MMD -MP -c $< -o $@

define kernel_rule
$(OBJ)/kernels/%.$(1).o: runtime/kernels/%.c $(FLAGS_NOTE)
	@mkdir -p $$(@D)
	$$(call SAY,CC,$$@)$(CC) $(BASE_FLAGS) $(KERNEL_FLAGS) $(or $(KERNEL_OPT),$(ISA_OPT_$(1)),$$(if $$(filter $(PLAIN_LOOPS),$$*),$(PLAIN_OPT),-O3)) $(ISA_FLAGS_$(1)) $(CFLAGS) -DNNL_ISA_NAME=$(1) -MMD -MP -c $$< -o $$@
endef
$(foreach isa,$(ISAS),$(eval $(call kernel_rule,$(isa))))

$(OBJ)/bindings/%.o: bindings/%.c $(BUILD)/gen/op_list.h $(BUILD)/gen/op_files.h $(FLAGS_NOTE)
	@mkdir -p $(@D)
	$(call SAY,CC,$@)$(CC) $(CFLAGS_ALL) $(DEFS) $(EDIT_DEFS) $(LUA_CFLAGS) -Ibindings -MMD -MP -c $< -o $@

$(OBJ)/embedded.o: $(BUILD)/gen/embedded.c $(FLAGS_NOTE)
	@mkdir -p $(@D)
	$(call SAY,CC,$@)$(CC) $(CFLAGS_ALL) -c $< -o $@

# ---- linking
$(BUILD)/libnnlua.a: $(LIB_O) $(FILES_NOTE)
	@rm -f $@
	$(call SAY,AR,$@)$(AR) rcs $@ $(filter %.o,$^)

# The binding for hosts with a lua_State of their own; it is linked with libnnlua.a, whose inside it uses.
$(BUILD)/libnnlua_lua.a: $(GLUE_O) $(FILES_NOTE)
	@rm -f $@
	$(call SAY,AR,$@)$(AR) rcs $@ $(filter %.o,$^)

$(BUILD)/libnnlua.so: $(LIB_O) $(FILES_NOTE)
	$(call SAY,LINK,$@)$(CC) -shared $(SANITIZE) -Wl,-soname,libnnlua.so.0 -Wl,--no-undefined -o $@ $(filter %.o,$^) $(LIBS)

$(BUILD)/nnlua.so: $(GLUE_O) $(OBJ)/bindings/module.o $(LIB_O) $(FILES_NOTE)
	$(call SAY,LINK,$@)$(CC) -shared $(SANITIZE) -o $@ $(filter %.o,$^) $(LIBS)

$(BUILD)/nnlua: $(OBJ)/bindings/nnlua.o $(OBJ)/bindings/repl.o $(GLUE_O) $(LIB_O) $(FILES_NOTE)
	$(call SAY,LINK,$@)$(CC) $(SANITIZE) -Wl,-E -o $@ $(filter %.o,$^) $(LIBS) $(LUA_LIBS) $(EDIT_LIBS)

# ---- what users type
help:
	@echo 'make            build/nnlua, build/nnlua.so, build/libnnlua.a and .so, build/libnnlua_lua.a   (BLAS=openblas|none, BUILD=dir, CC=)'
	@echo 'make mnist      installs what is missing, builds, trains on real images'
	@echo 'make test       installs what is missing, builds, runs all specs'
	@echo 'make install    PREFIX=/usr/local DESTDIR=     make uninstall'
	@echo 'make bench      workloads beside PyTorch, JAX, ONNX Runtime, NumPy, where they are installed'
	@echo 'make bench-ops  single ops beside PyTorch, oneDNN, OpenBLAS;   make bench-curves: by width, batch, length, threads'
	@echo 'make annotations  build/nnlua.d.lua, the types for editors (LuaCATS)'
	@echo 'make check      what continuous integration runs;   make check-all: everything'
	@echo 'make asan ubsan tsan valgrind isa oom ulp deps symbols lint fmt clean'

mnist:
	@sh scripts/setup.sh build
	@$(MAKE) --no-print-directory -s -j2 all
	@$(BUILD)/nnlua scripts/train_mnist.lua

test:
	@sh scripts/setup.sh test
	@$(MAKE) --no-print-directory -s -j2 all
	@scripts/dev/specs.sh $(BUILD) spec
	@$(MAKE) --no-print-directory -s c-specs

install: all $(BUILD)/nnlua.d.lua
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/lua/5.4 $(DESTDIR)$(PREFIX)/lib/pkgconfig \
	  $(DESTDIR)$(PREFIX)/share/lua/5.4/nnlua/data $(DESTDIR)$(PREFIX)/include
	install -m 755 $(BUILD)/nnlua $(DESTDIR)$(PREFIX)/bin/nnlua
	install -m 755 $(BUILD)/nnlua.so $(DESTDIR)$(PREFIX)/lib/lua/5.4/nnlua.so
	install -m 644 $(BUILD)/libnnlua.a $(DESTDIR)$(PREFIX)/lib/libnnlua.a
	install -m 644 $(BUILD)/libnnlua_lua.a $(DESTDIR)$(PREFIX)/lib/libnnlua_lua.a
	install -m 755 $(BUILD)/libnnlua.so $(DESTDIR)$(PREFIX)/lib/libnnlua.so.$(VERSION)
	ln -sf libnnlua.so.$(VERSION) $(DESTDIR)$(PREFIX)/lib/libnnlua.so.0
	ln -sf libnnlua.so.0 $(DESTDIR)$(PREFIX)/lib/libnnlua.so
	install -m 644 runtime/nnlua.h bindings/nnlua_lua.h $(DESTDIR)$(PREFIX)/include
	install -m 644 $(BUILD)/nnlua.d.lua $(DESTDIR)$(PREFIX)/share/lua/5.4/nnlua
	install -m 644 bindings/nnlua/data/* $(DESTDIR)$(PREFIX)/share/lua/5.4/nnlua/data
	for pc in nnlua nnlua-lua; do \
	  sed 's|@PREFIX@|$(PREFIX)|; s|@VERSION@|$(VERSION)|; s|@LIBS@|$(LIBS)|' scripts/dev/$$pc.pc.in \
	    > $(DESTDIR)$(PREFIX)/lib/pkgconfig/$$pc.pc || exit 1; done

uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/nnlua $(DESTDIR)$(PREFIX)/lib/lua/5.4/nnlua.so $(DESTDIR)$(PREFIX)/lib/libnnlua.a \
	  $(DESTDIR)$(PREFIX)/lib/libnnlua_lua.a $(DESTDIR)$(PREFIX)/lib/libnnlua.so* $(DESTDIR)$(PREFIX)/include/nnlua.h \
	  $(DESTDIR)$(PREFIX)/include/nnlua_lua.h $(DESTDIR)$(PREFIX)/lib/pkgconfig/nnlua.pc $(DESTDIR)$(PREFIX)/lib/pkgconfig/nnlua-lua.pc
	rm -rf $(DESTDIR)$(PREFIX)/share/lua/5.4/nnlua

# ---- checks
check:
	@scripts/dev/check.sh fast
check-all:
	@scripts/dev/check.sh full

deps:
	@scripts/dev/deps.sh
symbols: $(BUILD)/libnnlua.so
	@scripts/dev/symbols.sh $(BUILD)/libnnlua.so
lint:
	@luacheck -q scripts bindings/nnlua spec
# Files with op records are laid out by hand: a field a line, the name beside NNL_OP(.
fmt:
	@clang-format -i $$(git ls-files '*.c' '*.h' | xargs grep -L '^NNL_OP(')

# C programs of spec/: each prints "N passed, N failed"; their sum is what counts.
C_SPECS := $(patsubst spec/%.c,$(BUILD)/spec/%,$(filter-out spec/ulp.c,$(wildcard spec/*.c)))
$(BUILD)/spec/%: spec/%.c $(BUILD)/libnnlua.a
	@mkdir -p $(@D)
	$(call SAY,LINK,$@)$(CC) $(CFLAGS_ALL) $(DEFS) -MMD -MP -o $@ $< $(BUILD)/libnnlua.a $(LIBS)

$(BUILD)/spec/gemm $(BUILD)/bench/gemm: private DEFS += $(BLAS_DEFS)
$(BUILD)/spec/gemm $(BUILD)/bench/gemm: private LIBS += $(BLAS_LIBS)

# A host with a lua_State of its own.
$(BUILD)/spec/embed_lua: spec/embed_lua.c $(BUILD)/libnnlua_lua.a $(BUILD)/libnnlua.a
	@mkdir -p $(@D)
	$(call SAY,LINK,$@)$(CC) $(CFLAGS_ALL) $(DEFS) $(LUA_CFLAGS) -MMD -MP -o $@ $< $(BUILD)/libnnlua_lua.a $(BUILD)/libnnlua.a $(LIBS) $(LUA_LIBS)

c-specs: $(C_SPECS)
	@scripts/dev/sum.sh $(C_SPECS)
ulp: $(BUILD)/spec/ulp
	@$(BUILD)/spec/ulp $(ULP)

SAN_FLAGS := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
# Without OpenBLAS, which sanitizers do not see; kernels at -O3 would take three times as long to compile.
SAN_BUILD := BUILD=build/asan BLAS=none OPT="-O1 -g" KERNEL_OPT=-O1 SANITIZE="$(SAN_FLAGS)"
asan-build:
	@$(MAKE) --no-print-directory $(SAN_BUILD) all
asan-c-specs: asan-build
	@$(MAKE) --no-print-directory $(SAN_BUILD) c-specs
asan ubsan: asan-build asan-c-specs
	@scripts/dev/asan.sh build/asan spec
tsan:
	@$(MAKE) --no-print-directory BUILD=build/tsan OPT="-O1 -g" SANITIZE="-fsanitize=thread" BLAS=none build/tsan/libnnlua.a c-specs
valgrind:
	@$(MAKE) --no-print-directory all $(C_SPECS)
	@scripts/dev/valgrind.sh $(BUILD)
isa:
	@for isa in base avx2 avx512; do NNLUA_ISA=$$isa scripts/dev/specs.sh $(BUILD) spec/golden_spec.lua spec/ops_spec.lua spec/layouts_spec.lua || exit 1; done
oom:
	@NNLUA_OOM=all scripts/dev/specs.sh $(BUILD) spec/memory_spec.lua
annotations: $(BUILD)/nnlua.d.lua
$(BUILD)/nnlua.d.lua: $(BUILD)/nnlua
	$(call SAY,LUA,$@)$< annotations > $@.new && mv $@.new $@

# Figures of this machine.  Settings by environment: make bench NAMES="mlp-train-b64" ROUNDS=5; run.sh says which.
BENCHES := $(patsubst scripts/bench/%.c,$(BUILD)/bench/%,$(wildcard scripts/bench/*.c))
$(BUILD)/bench/%: scripts/bench/%.c $(BUILD)/libnnlua.a
	@mkdir -p $(@D)
	$(call SAY,LINK,$@)$(CC) $(CFLAGS_ALL) $(DEFS) -MMD -MP -o $@ $< $(BUILD)/libnnlua.a $(LIBS)
.PHONY: bench-programs
bench-programs: $(BENCHES)
bench: all $(BENCHES)
	@BUILD=$(BUILD) scripts/bench/run.sh $(NAMES)
bench-ops: all
	@BUILD=$(BUILD) scripts/bench/ops.sh $(NAMES)
bench-curves: all
	@$(BUILD)/nnlua scripts/bench/curves.lua $(NAMES)

clean:
	rm -rf $(BUILD)

-include $(shell find $(OBJ) $(BUILD)/spec $(BUILD)/bench -name '*.d' 2>/dev/null)
