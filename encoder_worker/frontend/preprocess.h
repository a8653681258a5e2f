/* Image to pixels: what the tower takes in. Equal to the reference's CLIPImageProcessor (spec 2.1): resize, centre crop,
 * x rescale, - mean, / std, channels first. */
#pragma once

#include "core/model/model.h"
#include "encoder_worker/frontend/image.h"

/* out[3,S,S], S = v->image_size. Sizes as the reference has them: the shorter side becomes resize_short and the longer
 * int(resize_short * longer / shorter); the crop begins at floor((size - crop) / 2), and where the image is smaller than the
 * crop, what lies outside is black. With pad_square the image is first put in the middle of a square canvas of
 * int(255 mean). Memory: scratch, given back; it grows with the sides of the image, never with the resized area.
 * UM_E_MODEL when the configured steps do not end at S x S. Thread: any. */
um_status um_image_pixels(float *out, const um_image *p, const um_vision_model *v,
                          um_arena *scratch, um_err *err);
