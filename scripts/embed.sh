#!/bin/sh
# Writes a C file that holds the given Lua and data files: bindings/nnlua/data.lua becomes module "nnlua.data",
# bindings/nnlua/init.lua module "nnlua", bindings/nnlua/data/x.idx "nnlua.data.x.idx".
set -eu
printf '#include <stddef.h>\n'
printf 'extern const struct nnl_embedded { const char *name; const char *text; size_t size; } nnl_embedded[];\n'
i=0
for file in "$@"; do
  printf 'static const char text_%d[] = {' "$i"
  od -An -v -tu1 "$file" | sed 's/  */,/g; s/^,//; s/$/,/'
  printf '0};\n'
  i=$((i + 1))
done
printf 'const struct nnl_embedded nnl_embedded[] = {\n'
i=0
for file in "$@"; do
  name=$(echo "$file" | sed 's|^bindings/||; s|\.lua$||; s|/init$||; s|/|.|g')
  printf '  {"%s", text_%d, sizeof text_%d - 1},\n' "$name" "$i" "$i"
  i=$((i + 1))
done
printf '  {NULL, NULL, 0}};\n'
