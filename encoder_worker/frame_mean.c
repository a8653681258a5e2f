/* See frame_mean.h. */
#include "encoder_worker/frame_mean.h"

void um_frame_mean_begin(um_frame_mean *m, um_dev *dev, um_arena *device, size_t values)
{
    *m = (um_frame_mean){.dev = dev, .values = values};
    m->total = um_arena_f32(device, 1, values);
    m->block = um_arena_f32(device, 1, values);
    dev->ops->fill(dev, m->total, 0.0f, values);
    dev->ops->fill(dev, m->block, 0.0f, values);
}

static void block_close(um_frame_mean *m)
{
    m->dev->ops->add(m->dev, m->total, m->block, m->values);
    m->dev->ops->fill(m->dev, m->block, 0.0f, m->values);
    m->open = 0;
}

void um_frame_mean_add(um_frame_mean *m, const float *frame)
{
    m->dev->ops->add(m->dev, m->block, frame, m->values);
    m->frames++;
    if (++m->open == UM_FRAME_BLOCK) block_close(m);
}

void um_frame_mean_end(um_frame_mean *m)
{
    UM_ASSERT(m->frames > 0);
    block_close(m);
    m->dev->ops->divide(m->dev, m->total, (float)m->frames, m->values);
}
