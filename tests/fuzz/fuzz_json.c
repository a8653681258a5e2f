/* JSON: everything that parses can be walked, and strings can be written again. */
#include "core/base/json.h"
#include "tests/fuzz/fuzz.h"

static void walk(const um_json *j, um_text *out, int depth)
{
    void *iter = NULL;
    const char *key;
    const um_json *value;
    if (depth > 4096) return;
    switch (um_json_kind_of(j)) {
    case UM_JSON_OBJECT:
        while ((value = um_json_next(j, &iter, &key)) != NULL) {
            um_text_json(out, key);
            UM_ASSERT(um_json_get(j, key) == value);
            walk(value, out, depth + 1);
        }
        break;
    case UM_JSON_ARRAY:
        for (size_t i = 0; i < um_json_size(j); i++) walk(um_json_at(j, i), out, depth + 1);
        break;
    case UM_JSON_STRING:
        um_text_json(out, um_json_str(j, ""));
        break;
    default:
        um_text_fmt(out, "%lld %g", (long long)um_json_int(j, 0), um_json_num(j, 0));
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    um_json *root;
    um_err err = {0};
    um_text out = {0};
    if (um_json_parse(&root, data, size, &err) == UM_OK) {
        walk(root, &out, 0);
        um_json_free(root);
    } else {
        UM_ASSERT(err.msg[0] != 0);
    }
    um_text_free(&out);
    return 0;
}
