/* The vision part of a model: the tower's config.json, preprocessor_config.json beside it, and the projector's keys in the
 * model's own config. Sources: spec 2.1, 3.1, 7.3; defaults are those of transformers 4.31's CLIPVisionConfig,
 * CLIPImageProcessor and of LLaVA's projector builder. */
#include "core/model/model_read.h"

#include "core/base/file.h"

#include <stdio.h>
#include <string.h>

static void read_act(um_vision_model *v, um_reader *r)
{
    const char *act = "quick_gelu";
    um_take_str(r, "hidden_act", &act);
    v->quick_gelu = strcmp(act, "quick_gelu") == 0;
    if (!v->quick_gelu && strcmp(act, "gelu") != 0) {
        um_refuse(r, "hidden_act: \"%.64s\", allowed \"quick_gelu\" and \"gelu\"", act);
    }
}

static void check_tower(const um_vision_model *v, um_reader *r)
{
    if (r->st != UM_OK) return;
    if (v->dim % v->heads != 0) {
        um_refuse(r, "num_attention_heads: %d, must divide hidden_size %d", v->heads, v->dim);
    }
    if (v->patch > v->image_size || v->image_size % v->patch != 0) {
        um_refuse(r, "patch_size: %d, must divide image_size %d", v->patch, v->image_size);
    }
}

static um_status read_tower(um_vision_model *v, um_arena *arena, um_err *err)
{
    um_json *root;
    um_reader r;
    um_status st =
        um_reader_open(&r, &root, um_path_join(arena, v->dir, "config.json"), false, arena, err);
    if (st != UM_OK) goto out;
    if (um_given(&r, "vision_config"))
        r.j =
            um_json_get(r.j, "vision_config"); /* the file is the config of a complete CLIP model */
    *v = (um_vision_model){.present = true,
                           .dir = v->dir,
                           .dim = 768,
                           .layers = 12,
                           .heads = 12,
                           .ffn_dim = 3072,
                           .image_size = 224,
                           .patch = 32,
                           .channels = 3,
                           .eps = 1e-5f};
    um_take_int(&r, "hidden_size", false, 1, UM_MAX_WIDTH, &v->dim);
    um_take_int(&r, "intermediate_size", false, 1, UM_MAX_WIDTH, &v->ffn_dim);
    um_take_int(&r, "num_hidden_layers", false, 1, UM_MAX_LAYERS, &v->layers);
    um_take_int(&r, "num_attention_heads", false, 1, UM_MAX_HEADS, &v->heads);
    um_take_int(&r, "image_size", false, 1, UM_MAX_IMAGE, &v->image_size);
    um_take_int(&r, "patch_size", false, 1, UM_MAX_IMAGE, &v->patch);
    um_take_int(&r, "num_channels", false, 3, 3, &v->channels);
    um_take_f32(&r, "layer_norm_eps", false, 1e-12, 0.1, &v->eps);
    read_act(v, &r);
    check_tower(v, &r);
    st = r.st;
out:
    um_json_free(root);
    return st;
}

/* "crop_size": 336 or {"height": 336, "width": 336}. */
static void read_crop(um_vision_model *v, um_reader *r)
{
    const um_json *crop = um_json_get(r->j, "crop_size");
    v->crop_w = v->crop_h = 224;
    if (um_json_kind_of(crop) == UM_JSON_OBJECT) {
        um_reader in = *r;
        in.j = crop;
        um_take_int(&in, "height", true, 1, UM_MAX_IMAGE, &v->crop_h);
        um_take_int(&in, "width", true, 1, UM_MAX_IMAGE, &v->crop_w);
        r->st = in.st;
    } else {
        um_take_int(r, "crop_size", false, 1, UM_MAX_IMAGE, &v->crop_w);
        v->crop_h = v->crop_w;
    }
}

/* "size": 336, {"shortest_edge": 336} or {"height": 336, "width": 336}. */
static void read_size(um_vision_model *v, um_reader *r)
{
    const um_json *size = um_json_get(r->j, "size");
    v->resize_short = 224;
    if (um_json_kind_of(size) != UM_JSON_OBJECT) {
        um_take_int(r, "size", false, 1, UM_MAX_IMAGE, &v->resize_short);
        return;
    }
    um_reader in = *r;
    in.j = size;
    if (um_given(&in, "shortest_edge")) {
        um_take_int(&in, "shortest_edge", true, 1, UM_MAX_IMAGE, &v->resize_short);
    } else if (um_given(&in, "height") && um_given(&in, "width")) {
        v->resize_short = 0;
        um_take_int(&in, "height", true, 1, UM_MAX_IMAGE, &v->resize_h);
        um_take_int(&in, "width", true, 1, UM_MAX_IMAGE, &v->resize_w);
    } else {
        um_refuse(&in, "size: allowed a number, {\"shortest_edge\"} and {\"height\", \"width\"}");
    }
    r->st = in.st;
}

/* Reads three numbers, one for each colour channel. */
static void read_colours(um_reader *r, const char *key, const float fallback[3], double min,
                         float out[3])
{
    const um_json *list = um_json_get(r->j, key);
    for (int i = 0; i < 3; i++) out[i] = fallback[i];
    if (!um_given(r, key)) return;
    bool ok = um_json_kind_of(list) == UM_JSON_ARRAY && um_json_size(list) == 3;
    for (size_t i = 0; ok && i < 3; i++) {
        double x = um_json_num(um_json_at(list, i), -1);
        ok = x >= min && x <= 1e3;
        out[i] = (float)x;
    }
    if (!ok) um_refuse(r, "%s: allowed a list of three numbers from %g to 1000", key, min);
}

static void read_values(um_vision_model *v, um_reader *r)
{
    static const float clip_mean[3] = {0.48145466f, 0.4578275f, 0.40821073f};
    static const float clip_std[3] = {0.26862954f, 0.26130258f, 0.27577711f};
    bool normalise = true, rescale = true;
    int resample = 3;
    um_take_bool(r, "do_normalize", &normalise);
    um_take_bool(r, "do_rescale", &rescale);
    um_take_int(r, "resample", false, 0, 5, &resample);
    if (resample != 3) um_refuse(r, "resample: %d, allowed 3 (bicubic)", resample);
    v->rescale = 1.0f / 255.0f;
    um_take_f32(r, "rescale_factor", false, 1e-6, 1e6, &v->rescale);
    if (!rescale) v->rescale = 1.0f;
    read_colours(r, "image_mean", clip_mean, 0, v->mean);
    read_colours(r, "image_std", clip_std, 1e-6, v->std);
    memcpy(v->fill, v->mean, sizeof v->fill);
    for (int i = 0; !normalise && i < 3; i++) {
        v->mean[i] = 0.0f;
        v->std[i] = 1.0f;
    }
}

/* Preprocessing must produce images of the tower's input size. */
static void check_pixels(const um_vision_model *v, um_reader *r)
{
    int w = v->crop     ? v->crop_w
            : v->resize ? v->resize_w
                        : 0,
        h = v->crop     ? v->crop_h
            : v->resize ? v->resize_h
                        : 0;
    if (w == v->image_size && h == v->image_size) return;
    if (w == 0 || h == 0) {
        um_refuse(r,
                  "do_center_crop: off and size is no fixed {\"height\", \"width\"}: images "
                  "would not all be %d x %d",
                  v->image_size, v->image_size);
    } else {
        um_refuse(r, "%s: %d x %d, must be the tower's image_size %d x %d",
                  v->crop ? "crop_size" : "size", w, h, v->image_size, v->image_size);
    }
}

static um_status read_preprocessor(um_vision_model *v, um_arena *arena, um_err *err)
{
    um_json *root;
    um_reader r;
    um_status st = um_reader_open(
        &r, &root, um_path_join(arena, v->dir, "preprocessor_config.json"), false, arena, err);
    if (st != UM_OK) goto out;
    v->resize = v->crop = true;
    um_take_bool(&r, "do_resize", &v->resize);
    um_take_bool(&r, "do_center_crop", &v->crop);
    read_size(v, &r);
    read_crop(v, &r);
    read_values(v, &r);
    check_pixels(v, &r);
    st = r.st;
out:
    um_json_free(root);
    return st;
}

/* hidden_states[select]: 0 is the input of the first layer, k the output of layer k; negative counts from the last. */
static void read_feature(um_vision_model *v, um_reader *r)
{
    int select = -2, width = v->dim;
    const char *feature = "patch", *aspect = "square";
    um_take_int(r, "mm_vision_select_layer", false, -v->layers - 1, v->layers, &select);
    v->run_layers = select >= 0 ? select : v->layers + 1 + select;
    um_take_str(r, "mm_vision_select_feature", &feature);
    v->keep_class = strcmp(feature, "cls_patch") == 0;
    if (!v->keep_class && strcmp(feature, "patch") != 0) {
        um_refuse(r, "mm_vision_select_feature: \"%.64s\", allowed \"patch\" and \"cls_patch\"",
                  feature);
    }
    um_take_str(r, "image_aspect_ratio", &aspect);
    v->pad_square = strcmp(aspect, "pad") == 0;
    if (!v->pad_square && strcmp(aspect, "square") != 0) {
        um_refuse(r, "image_aspect_ratio: \"%.64s\", allowed \"square\" and \"pad\"", aspect);
    }
    um_take_int(r, "mm_hidden_size", false, 1, UM_MAX_WIDTH, &width);
    if (width != v->dim) {
        um_refuse(r, "mm_hidden_size: %d, the tower in %s has hidden_size %d", width, v->dir,
                  v->dim);
    }
}

um_status um_model_read_vision(um_vision_model *v, um_reader *llm, const char *dir,
                               const char *vision_tower)
{
    const char *name = "";
    um_take_str(llm, "mm_vision_tower", &name);
    if (llm->st != UM_OK) return llm->st;
    *v = (um_vision_model){0};
    if (vision_tower[0] != '\0')
        v->dir = um_arena_str(llm->arena, vision_tower);
    else if (name[0] != '\0')
        v->dir = um_path_join(llm->arena, dir, name);
    else
        return UM_OK;
    if (!um_file_exists(um_path_join(llm->arena, v->dir, "config.json"))) {
        if (vision_tower[0] != '\0') {
            return llm->st = UM_FAIL(llm->err, UM_E_MODEL,
                                     "vision tower %s: no config.json is there", v->dir);
        }
        um_refuse(llm,
                  "mm_vision_tower: \"%.300s\", no config.json is there: say where the tower is "
                  "with --vision-tower DIR",
                  name);
        return llm->st;
    }
    llm->st = read_tower(v, llm->arena, llm->err);
    if (llm->st == UM_OK) llm->st = read_preprocessor(v, llm->arena, llm->err);
    if (llm->st == UM_OK) um_take_projector(llm, "mm_projector_type", &v->proj, &v->proj_layers);
    if (llm->st == UM_OK) read_feature(v, llm);
    return llm->st;
}
