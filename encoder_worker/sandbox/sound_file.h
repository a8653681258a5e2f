/* Sound files by libsndfile, on which the original's loader (soundfile) stands: equal samples for WAV and its relatives, AIFF, AU,
 * CAF, FLAC, Ogg (Vorbis, Opus), NIST SPHERE, VOC and a few older formats. What it does not read is left to libavformat
 * (media_stream.h); docs/adr/0010 says which file goes where, and why. The one door to libsndfile. */
#pragma once

#include "core/base/arena.h"
#include "core/base/status.h"

#include <stddef.h>
#include <stdint.h>

typedef struct um_sound_file um_sound_file;

/* *out stays NULL where libsndfile does not read the bytes or finds no sample in them: try libavformat. UM_E_DATA: the format is
 * known, and nothing here reads it. The bytes must outlive it, and so must the arena. */
um_status um_sound_file_open(um_sound_file **out, const uint8_t *bytes, size_t n, um_arena *arena,
                             um_err *err);
void um_sound_file_close(um_sound_file *f); /* accepts NULL */

int um_sound_file_rate(const um_sound_file *f);
/* Seconds that the header declares, or < 0: it does not say. */
double um_sound_file_declared(const um_sound_file *f);
/* Seconds of the declared length that may be missing in a file that is not cut off. */
double um_sound_file_slack(const um_sound_file *f);

/* The next samples, each the mean over the channels: *n <= room of them, 0 at the end. *rate is theirs; it may change from one Ogg
 * stream of a chain to the next. Thread: one. */
um_status um_sound_file_read(um_sound_file *f, float *mono, size_t room, size_t *n, int *rate,
                             um_err *err);
