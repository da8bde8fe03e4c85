#!/bin/sh
# Builds the fuzz targets of this folder with clang and runs each for some seconds (60), beginning with the
# golden files.  Findings and the corpus stay in the build folder.  From the root: sh spec/fuzz/run.sh [seconds]
set -eu
seconds=${1:-60}
build=${BUILD:-build/fuzz}
sanitize="-fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined"
defines=
libraries="-lm -pthread"
if pkg-config --exists zlib; then
    defines=-DNNL_HAVE_ZLIB=1
    libraries="$libraries -lz"
fi

# What reads files is built with the sanitizers; the rest, kernels above all, comes from the plain library.
make -s BUILD="$build" BLAS=none "$build/libnnlua.a"
rooms="runtime/base/*.c runtime/tensor/*.c runtime/data/*.c runtime/formats/*.c"
for target in safetensors idx npy; do
    # shellcheck disable=SC2086
    clang -std=gnu11 -g -O1 $sanitize $defines -I"$build/gen" "spec/fuzz/$target.c" $rooms \
        "$build/libnnlua.a" $libraries -o "$build/fuzz_$target"
    mkdir -p "$build/corpus/$target"
    cp spec/golden/files/*."$target" "$build/corpus/$target" 2>/dev/null || true
    if [ "$target" = idx ]; then
        printf '\000\000\013\002\000\000\000\002\000\000\000\001abcd' > "$build/corpus/idx/i16"
        gzip -nc "$build/corpus/idx/i16" > "$build/corpus/idx/gz"
    fi
    echo "$target: $seconds s"
    "$build/fuzz_$target" -max_total_time="$seconds" -max_len=800 -use_value_profile=1 -verbosity=0 \
        -dict=spec/fuzz/words.dict -artifact_prefix="$build/$target-" "$build/corpus/$target"
done
echo "nothing found"
