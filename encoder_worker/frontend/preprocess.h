/* Image to pixels, the input of the tower. Equal to the reference's CLIPImageProcessor (spec 2.1): resize, centre crop, x rescale, -
 * mean, / std, channels first. */
#pragma once

#include "core/model/model.h"
#include "encoder_worker/frontend/image.h"

/* out[3,S,S], S = v->image_size. Sizes as in the reference: the shorter side becomes resize_short and the longer one int(resize_short *
 * longer / shorter); the crop begins at floor((size - crop) / 2), and pixels of the crop outside a smaller image are black. With
 * pad_square the image is first centred on a square canvas of colour int(255 mean). Memory: scratch, released before returning; it
 * grows with the sides of the image, never with the resized area. UM_E_MODEL when the configured steps do not produce S x S pixels.
 * Thread: any. */
um_status um_image_pixels(float *out, const um_image *p, const um_vision_model *v,
                          um_arena *scratch, um_err *err);
