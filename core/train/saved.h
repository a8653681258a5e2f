/* Checkpoints of a training: OUT/checkpoint-N, the state after step N.
 *
 *   checkpoint-120/   router.safetensors  expert-0.safetensors ...  encoder-0.safetensors    what each rank writes (state.h)
 *                     trainer_state.json   where the run is: steps, cursor in the data, schedule, what must agree to go on
 *                     manifest.json        name, size and XXH3 of all others; written last
 *
 * They are written to OUT/.tmp-checkpoint-N, synced, and renamed when the manifest is there: a folder checkpoint-N is whole or was damaged
 * later, which opening finds by the manifest. One that leaves is renamed before its files are removed. So a job that is killed at any
 * moment leaves whole checkpoints and temporary folders. A state names tensors, not ranks, so any number of ranks can go on from it.
 * Thread: any, one at a time for a folder. */
#pragma once

#include "core/base/json.h"
#include "core/nn/safetensors.h"

enum { UM_SAVED_FILES = 4096 };

/* A file of a checkpoint. */
typedef struct um_saved_file {
    const char *name; /* within the folder */
    uint64_t bytes, xxh3;
} um_saved_file;

/* --- writing; by router 0 --- */

/* Takes the run's folder for one job: of two that write into it at a time, each would remove what the other is writing. Waits up to
 * ten seconds for a job that is ending; UM_E_USAGE when the folder is still taken then. The folder is let go when *fd is closed, and when
 * the process ends in whatever way. *fd is -1 where the file system has no locks. */
um_status um_saved_lock(int *fd, const char *out, um_err *err);
/* A run goes on from `step`: later checkpoints, which are damaged or belong to a course that the run has left, are renamed to
 * set-aside-checkpoint-N, each with a warning. Neither a resume nor the pruning counts them any more. */
void um_saved_set_aside(const char *out, uint64_t step);
/* The temporary folder of a checkpoint of step `step`, made empty. */
um_status um_saved_begin(const char **folder, const char *out, uint64_t step, um_arena *arena,
                         um_err *err);
/* The ranks' files and trainer_state.json's text are there: writes that and the manifest, and renames the folder. *folder: its name then. A
 * checkpoint of this step that was there is replaced. */
um_status um_saved_commit(const char **folder, const char *out, uint64_t step,
                          const um_saved_file *files, int n, const char *state, um_arena *arena,
                          um_err *err);
/* Gives up the checkpoint of this step that was begun: its files make room. */
void um_saved_drop(const char *out, uint64_t step);
/* Size and XXH3 of a file that was written. */
um_status um_saved_measure(um_saved_file *f, const char *folder, um_err *err);
/* Removes all but the `keep` newest checkpoints and that of step `best` (0: none); and temporary folders. */
void um_saved_prune(const char *out, int64_t keep, uint64_t best);

/* --- reading --- */

typedef struct um_saved {
    const char *folder;
    uint64_t step;
    um_json *state;    /* trainer_state.json */
    um_tensors **sets; /* [n_sets] of the ranks' files */
    int n_sets;
    um_arena arena;
} um_saved;

/* The folder of the checkpoint of this step, whether it is there or not. */
const char *um_saved_folder(const char *out, uint64_t step, um_arena *arena);
/* UM_E_DATA names what is missing or damaged: "checkpoint RUN/checkpoint-8: expert-1.safetensors has 512 bytes, manifest.json says
 * 1024". verify: reads all files and compares their XXH3. */
um_status um_saved_open(um_saved *out, const char *folder, bool verify, um_err *err);
void um_saved_close(um_saved *s); /* accepts a zeroed one */
/* The tensor PREFIX NAME, or NULL. */
const um_tensor *um_saved_tensor(const um_saved *s, const char *prefix, const char *name);
/* The newest checkpoint of out that is whole, verified; *folder NULL when out has no checkpoint at all. Those that are damaged are passed
 * over with a warning that names what is wrong; when all are, UM_E_DATA does. */
um_status um_saved_newest(const char **folder, const char *out, um_arena *arena, um_err *err);
