/* See modality.h. */
#include "core/model/modality.h"

static const char *const names[UM_MODALITIES] = {"text", "image", "speech", "sound", "video"};

const char *um_modality_name(um_modality modality) { return names[modality]; }

um_fm um_fm_of(um_modality modality)
{
    static const um_fm fm[UM_MODALITIES] = {UM_FM_TEXT, UM_FM_IMAGE, UM_FM_AUDIO, UM_FM_AUDIO,
                                            UM_FM_VIDEO};
    return fm[modality];
}
