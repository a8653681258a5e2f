/* Safetensors files: what opens has all its bytes, in the file and not overlapping. */
#include "core/nn/safetensors.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/fuzz_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    um_tensors *s;
    um_err err = {0};
    if (um_tensors_open(&s, fuzz_file("model.safetensors", data, size), &err) != UM_OK) {
        UM_ASSERT(err.msg[0] != 0);
        return 0;
    }
    volatile unsigned sum = 0;
    size_t bytes = 0;
    for (size_t i = 0; i < um_tensors_count(s); i++) {
        const um_tensor *t = um_tensors_at(s, i);
        UM_ASSERT(um_tensors_find(s, t->name) == t);
        for (size_t k = 0; k < t->bytes; k++) sum += t->data[k];
        bytes += t->bytes;
    }
    (void)sum;
    UM_ASSERT(bytes < size);
    um_tensors_close(s);
    return 0;
}
