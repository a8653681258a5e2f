/* torch.save files: every tensor of what opens lies in the file, with all its values. */
#include "launch/torch/tensor_source.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/fuzz_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    um_sources s;
    const um_source_list *list;
    um_err err = {0};
    um_sources_open(&s);
    if (um_source_file(&s, &list, fuzz_file("x.bin", data, size), &err) == UM_OK) {
        for (size_t i = 0; i < list->n; i++) {
            const um_source_tensor *t = &list->item[i];
            uint8_t value[8];
            UM_ASSERT(um_source_get(list, t->name) == t);
            /* strides may say far more values than bytes: look at both ends and in between */
            for (size_t k = 0; k < t->values; k += 1 + t->values / 64)
                um_source_read(value, t, k, 1);
            if (t->values > 0) um_source_read(value, t, t->values - 1, 1);
        }
    } else {
        UM_ASSERT(err.msg[0] != 0);
    }
    um_sources_close(&s);
    return 0;
}
