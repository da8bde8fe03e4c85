#!/bin/sh
# Writes a C file that holds the given Lua and data files: bindings/nnlua/data.lua becomes module "nnlua.data",
# bindings/nnlua/init.lua module "nnlua", bindings/nnlua/data/x.idx "nnlua.data.x.idx".
# With a Lua 5.4 interpreter in LUA, Lua files are there compiled as well, which makes start-up quicker.
set -eu
compile='
local path, module = arg[1], arg[2]
local file <close> = assert(io.open(path, "rb"))
io.stdout:write(string.dump(assert(load(file:read("a"), "=" .. module:gsub("%.", "/"), "t"))))'

module_of() { echo "$1" | sed 's|^bindings/||; s|\.lua$||; s|/init$||; s|/|.|g'; }

# array NAME: the bytes of standard input
array() {
  printf 'static const unsigned char %s[] = {' "$1"
  od -An -v -tu1 | sed 's/  */,/g; s/^,//; s/$/,/'
  printf '0};\n'
}

is_compiled() { case $1 in *.lua) [ "$compiles" ] ;; *) false ;; esac; }

compiles=
if [ "$("${LUA:-none}" -e 'print(_VERSION)' 2>/dev/null)" = "Lua 5.4" ]; then
  compiles=1
  script=$(mktemp)
  trap 'rm -f "$script"' EXIT
  printf '%s\n' "$compile" > "$script"
fi
printf '#include <stddef.h>\n'
cat << 'END'
extern const struct nnl_embedded {
  const char *name, *text, *code;
  size_t size, code_size;
} nnl_embedded[];
END
i=0
for file in "$@"; do
  array "text_$i" < "$file"
  if is_compiled "$file"; then "$LUA" "$script" "$file" "$(module_of "$file")" | array "code_$i"; fi
  i=$((i + 1))
done
printf 'const struct nnl_embedded nnl_embedded[] = {\n'
i=0
for file in "$@"; do
  code='NULL' size='0'
  if is_compiled "$file"; then code="(const char *)code_$i" size="sizeof code_$i - 1"; fi
  printf '  {"%s", (const char *)text_%d, %s, sizeof text_%d - 1, %s},\n' "$(module_of "$file")" "$i" "$code" "$i" "$size"
  i=$((i + 1))
done
printf '  {NULL, NULL, NULL, 0, 0}};\n'
