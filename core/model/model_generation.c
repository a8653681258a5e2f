/* Token ids and default sampling settings: config.json and generation_config.json, read as transformers reads them. The second file may
 * be absent; the library's defaults (GenerationConfig) replace absent keys.
 *
 * An answer ends at any end token of either file, as in vLLM: in released models often only one of the files has the whole list. */
#include "core/model/model_read.h"

#include "core/base/file.h"
#include "core/base/text.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void um_note(um_notes *notes, um_arena *arena, const char *fmt, ...)
{
    char line[512];
    va_list ap;
    if (notes->n == UM_MAX_NOTES) return;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    notes->line[notes->n++] = um_arena_str(arena, line);
}

/* --- token ids --- */

/* Reads a whole number; 2.0 is one too. */
static bool id_of(int64_t *out, const um_json *v)
{
    double x = um_json_num(v, NAN);
    if (!(x >= -1e9 && x <= 1e9) || x != floor(x)) return false;
    *out = (int64_t)x;
    return true;
}

/* An id outside the vocabulary is never generated. Some released files have one (a pad token added without new rows). */
static bool id_fits(um_model *m, const um_reader *r, const char *key, int64_t id)
{
    if (id < m->vocab) return id >= 0;
    um_note(&m->notes, r->arena, "%s: %s: %" PRId64 " is outside the vocabulary of %d: ignored",
            r->path, key, id, m->vocab);
    return false;
}

static void take_id(um_model *m, um_reader *r, const char *key, int *out)
{
    int64_t id;
    const um_json *v = um_json_get(r->j, key);
    if (r->st != UM_OK || !um_given(r, key)) return;
    if (!id_of(&id, v)) {
        um_refuse(r, "%s: allowed a token id or null", key);
    } else if (id < 0) {
        *out = -1;
    } else if (id_fits(m, r, key, id)) {
        *out = (int)id;
    }
}

static void add_eos(um_model *m, um_reader *r, const um_json *v)
{
    int64_t id;
    if (!id_of(&id, v)) {
        um_refuse(r, "eos_token_id: allowed a token id, a list of them or null");
        return;
    }
    if (!id_fits(m, r, "eos_token_id", id) || um_model_is_eos(m, (int)id)) return;
    if (m->n_eos == UM_MAX_EOS) {
        um_refuse(r, "eos_token_id: more than %d ids", UM_MAX_EOS);
        return;
    }
    m->eos[m->n_eos++] = (int)id;
}

static void take_eos(um_model *m, um_reader *r)
{
    const um_json *v = um_json_get(r->j, "eos_token_id");
    if (r->st != UM_OK || !um_given(r, "eos_token_id")) return;
    if (um_json_kind_of(v) != UM_JSON_ARRAY) {
        add_eos(m, r, v);
        return;
    }
    for (size_t i = 0; i < um_json_size(v) && r->st == UM_OK; i++) add_eos(m, r, um_json_at(v, i));
}

static void take_ids(um_model *m, um_reader *r)
{
    take_id(m, r, "bos_token_id", &m->bos);
    take_id(m, r, "pad_token_id", &m->pad);
    take_eos(m, r);
}

/* --- features of transformers that are not supported here --- */

/* true when the value does not request the feature: null, false, 0, an empty list, or the number that switches it off. */
static bool is_neutral(const um_json *v, double off)
{
    switch (um_json_kind_of(v)) {
    case UM_JSON_NONE:
    case UM_JSON_NULL:
        return true;
    case UM_JSON_BOOL:
        return !um_json_bool(v, false);
    case UM_JSON_INT:
    case UM_JSON_REAL:
        return um_json_num(v, off) == off || um_json_num(v, off) == 0;
    case UM_JSON_STRING:
        return um_json_str(v, "")[0] == '\0';
    case UM_JSON_ARRAY:
    case UM_JSON_OBJECT:
        return um_json_size(v) == 0;
    }
    return true;
}

/* Adds one note that names all unsupported keys. */
static void note_unsupported(um_model *m, const um_reader *r)
{
    static const struct {
        const char *key;
        double off;
    } keys[] = {
        {"num_beams", 1},
        {"num_beam_groups", 1},
        {"num_return_sequences", 1},
        {"repetition_penalty", 1},
        {"encoder_repetition_penalty", 1},
        {"diversity_penalty", 0},
        {"penalty_alpha", 0},
        {"no_repeat_ngram_size", 0},
        {"encoder_no_repeat_ngram_size", 0},
        {"min_length", 0},
        {"min_new_tokens", 0},
        {"min_p", 0},
        {"top_h", 0},
        {"typical_p", 1},
        {"epsilon_cutoff", 0},
        {"eta_cutoff", 0},
        {"guidance_scale", 1},
        {"exponential_decay_length_penalty", 0},
        {"sequence_bias", 0},
        {"bad_words_ids", 0},
        {"force_words_ids", 0},
        {"constraints", 0},
        {"forced_bos_token_id", -1},
        {"forced_eos_token_id", -1},
        {"forced_decoder_ids", 0},
        {"suppress_tokens", 0},
        {"begin_suppress_tokens", 0},
        {"stop_strings", 0},
        {"watermarking_config", 0},
        {"dola_layers", 0},
        {"frequency_penalty", 0},
        {"presence_penalty", 0},
    };
    um_text names = {0};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        if (!is_neutral(um_json_get(r->j, keys[i].key), keys[i].off))
            um_text_fmt(&names, "%s%s", names.n > 0 ? ", " : "", keys[i].key);
    }
    if (names.n > 0)
        um_note(&m->notes, r->arena, "%s: not supported and ignored: %s", r->path, names.s);
    um_text_free(&names);
}

/* --- the file --- */

/* top_k: in various libraries 0, -1 or null means no limit. */
static void take_top_k(um_model *m, um_reader *r)
{
    int k = m->gen_top_k;
    um_take_int(r, "top_k", false, -1, INT32_MAX, &k);
    m->gen_top_k = k < 0 ? 0 : k;
}

static um_status read_file(um_model *m, const char *dir, um_arena *arena, um_err *err)
{
    um_json *root;
    um_reader r;
    um_status st = um_reader_open(&r, &root, um_path_join(arena, dir, "generation_config.json"),
                                  true, arena, err);
    if (st == UM_OK && root != NULL) {
        take_ids(m, &r);
        um_take_bool(&r, "do_sample", &m->do_sample);
        um_take_f32(&r, "temperature", false, 0.0, 100.0, &m->temperature);
        um_take_f32(&r, "top_p", false, 0.0, 1.0, &m->top_p);
        take_top_k(m, &r);
        note_unsupported(m, &r);
        st = r.st;
    }
    um_json_free(root);
    return st;
}

um_status um_model_read_generation(um_model *m, um_reader *llm, const char *dir)
{
    m->bos = 1; /* LlamaConfig's defaults */
    m->pad = 0;
    m->do_sample = false;
    m->temperature = m->top_p = 1.0f;
    m->gen_top_k = 50;
    take_ids(m, llm);
    UM_TRY(llm->st);
    UM_TRY(read_file(m, dir, llm->arena, llm->err));
    if (m->n_eos > 0) return UM_OK;
    if (um_json_get(llm->j, "eos_token_id") == NULL)
        m->eos[m->n_eos++] =
            2; /* LlamaConfig's default when the key is absent; null means that the model does not have one */
    else
        um_note(&m->notes, llm->arena,
                "%s: eos_token_id names no token: answers end at --max-new-tokens only", llm->path);
    return UM_OK;
}
