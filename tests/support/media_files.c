/* See media_files.h. */
#include "tests/support/media_files.h"

#include "core/base/bytes.h"
#include "core/base/file.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

media_blob media_load(um_arena *arena, const char *name)
{
    char path[600];
    media_blob b = {0};
    um_err err = {0};
    snprintf(path, sizeof path, "%s/%s", UM_TEST_DATA, name);
    if (um_file_read(&b.data, &b.n, path, 1 << 22, arena, &err) == UM_OK) return b;
    fprintf(stderr, "%s\n", err.msg);
    exit(1);
}

media_blob media_wav_make(um_arena *arena, const media_wav *w, const void *samples, size_t n)
{
    uint8_t *p = um_arena_zero(arena, 44 + n);
    uint32_t frame = (uint32_t)(w->channels * w->bits / 8), bytes = (uint32_t)n;
    memcpy(p, "RIFF", 4);
    um_put_u32(p + 4, (w->declared != 0 ? w->declared : bytes) + 36);
    memcpy(p + 8, "WAVEfmt ", 8);
    um_put_u32(p + 16, 16);
    um_put_u16(p + 20, (uint16_t)w->format);
    um_put_u16(p + 22, (uint16_t)w->channels);
    um_put_u32(p + 24, (uint32_t)w->rate);
    um_put_u32(p + 28, (uint32_t)w->rate * frame);
    um_put_u16(p + 32, (uint16_t)frame);
    um_put_u16(p + 34, (uint16_t)w->bits);
    memcpy(p + 36, "data", 4);
    um_put_u32(p + 40, w->declared != 0 ? w->declared : bytes);
    if (n > 0) memcpy(p + 44, samples, n);
    return (media_blob){.data = p, .n = 44 + n};
}

/* The sound of media/tones.*: sample i at 16 kHz, mean of both channels. */
static double tones(int64_t i)
{
    double t = 2 * acos(-1.0) * (double)i / UM_WAVE_RATE;
    return 0.25 * sin(440 * t) + 0.25 * sin(660 * t);
}

double media_tones_off(const um_wave *w, int64_t from, int64_t to)
{
    double most = 0;
    for (int64_t i = from; i < to && i < w->n; i++)
        most = fmax(most, fabs((double)w->samples[i] - tones(i)));
    return to <= w->n ? most : INFINITY;
}

bool media_is_frame(const um_image *p, int k, int slack)
{
    const int colour[3] = {8 * k, 255 - 8 * k, 37 * k % 256};
    for (int i = 0; i < p->w * p->h * 3; i++)
        if (abs(p->rgb[i] - colour[i % 3]) > slack) return false;
    return p->w == 32 && p->h == 24;
}

int media_children(int *pid)
{
    DIR *proc = opendir("/proc");
    int found = 0;
    for (struct dirent *e; proc != NULL && (e = readdir(proc)) != NULL;) {
        char path[300], text[512] = "";
        long parent = -1;
        snprintf(path, sizeof path, "/proc/%s/stat", e->d_name);
        FILE *f = e->d_name[0] >= '1' && e->d_name[0] <= '9' ? fopen(path, "re") : NULL;
        if (f == NULL) continue;
        const char *behind = fgets(text, sizeof text, f) != NULL ? strrchr(text, ')') : NULL;
        fclose(f);
        if (behind == NULL || sscanf(behind + 1, " %*c %ld", &parent) != 1 || parent != getpid())
            continue;
        found++;
        if (pid != NULL) *pid = (int)strtol(e->d_name, NULL, 10);
    }
    closedir(proc);
    return found;
}

int media_open_files(void)
{
    DIR *fds = opendir("/proc/self/fd");
    int n = 0;
    while (fds != NULL && readdir(fds) != NULL) n++;
    closedir(fds);
    return n;
}
