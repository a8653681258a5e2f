/* See golden.h. */
#include "tests/support/golden.h"

#include "core/base/file.h"
#include "core/nn/safetensors.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static bool ints_equal(const um_tensor *got, const um_tensor *want)
{
    size_t n = want->bytes / 4;
    for (size_t i = 0; i < n; i++) {
        int32_t g, w;
        memcpy(&g, got->data + 4 * i, 4);
        memcpy(&w, want->data + 4 * i, 4);
        if (g == w) continue;
        printf("%s[%zu] = %d, want %d\n", want->name, i, g, w);
        return false;
    }
    return true;
}

/* got may have more leading rows than want (logits against logits_tail): its end is compared. */
static bool floats_near(const um_tensor *got, const um_tensor *want, double tolerance)
{
    size_t n = want->bytes / 4, skip = got->bytes / 4 - n;
    double largest = 0, worst = 0;
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        float g, w;
        memcpy(&g, got->data + 4 * (skip + i), 4);
        memcpy(&w, want->data + 4 * i, 4);
        if (fabs((double)w) > largest) largest = fabs((double)w);
        double d = fabs((double)g - (double)w);
        if (!(d <= worst)) {
            worst = d;
            at = i;
        }
    }
    if (worst <= tolerance * largest) return true;
    printf("%s: off by %g at %zu of %zu, largest value %g, tolerance %g of it\n", want->name, worst,
           at, n, largest, tolerance);
    return false;
}

static bool tensor_matches(const um_tensors *trace, const um_tensor *want, double tolerance)
{
    const char *name = strcmp(want->name, "logits_tail") == 0 ? "logits" : want->name;
    const um_tensor *got = um_tensors_find(trace, name);
    if (got == NULL || got->dtype != want->dtype || got->bytes < want->bytes ||
        (name == want->name && got->bytes != want->bytes)) {
        printf("%s: %s\n", name, got == NULL ? "missing in the trace" : "has another type or size");
        return false;
    }
    for (int i = 0; name == want->name && i < want->rank; i++) {
        if (got->rank == want->rank && got->shape[i] == want->shape[i]) continue;
        printf("%s: has another shape\n", name);
        return false;
    }
    return want->dtype == UM_I32 ? ints_equal(got, want) : floats_near(got, want, tolerance);
}

bool golden_matches(const char *trace, const char *expected, double tolerance)
{
    um_err err = {0};
    um_tensors *got = NULL, *want = NULL;
    bool ok = um_tensors_open(&got, trace, &err) == UM_OK &&
              um_tensors_open(&want, expected, &err) == UM_OK;
    if (!ok) printf("%s\n", err.msg);
    for (size_t i = 0; ok && i < um_tensors_count(want); i++)
        ok = tensor_matches(got, um_tensors_at(want, i), tolerance) && ok;
    um_tensors_close(got);
    um_tensors_close(want);
    return ok;
}

bool golden_same_bits(const char *a, const char *b)
{
    um_err err = {0};
    um_file fa = {0}, fb = {0};
    if (um_file_map(&fa, a, &err) != UM_OK || um_file_map(&fb, b, &err) != UM_OK) {
        printf("%s\n", err.msg);
        um_file_unmap(&fa);
        return false;
    }
    bool same = fa.size == fb.size && memcmp(fa.data, fb.data, fa.size) == 0;
    um_file_unmap(&fa);
    um_file_unmap(&fb);
    if (same) return true;
    um_tensors *ta = NULL, *tb = NULL;
    if (um_tensors_open(&ta, a, &err) == UM_OK && um_tensors_open(&tb, b, &err) == UM_OK) {
        for (size_t i = 0; i < um_tensors_count(ta); i++) {
            const um_tensor *x = um_tensors_at(ta, i), *y = um_tensors_find(tb, x->name);
            if (y != NULL && x->bytes == y->bytes && memcmp(x->data, y->data, x->bytes) == 0)
                continue;
            printf("%s differs between %s and %s\n", x->name, a, b);
            break;
        }
    }
    um_tensors_close(ta);
    um_tensors_close(tb);
    return false;
}
