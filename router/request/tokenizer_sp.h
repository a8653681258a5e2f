/* C interface to a SentencePiece model. Exceptions do not leave these functions; NULL or -1 means failure, with a sentence in why. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct um_sp um_sp;

um_sp *um_sp_open(const void *model, size_t bytes, char *why, size_t why_bytes);
void um_sp_close(um_sp *sp);
int um_sp_vocab(const um_sp *sp);
int um_sp_bos(const um_sp *sp);
int um_sp_eos(const um_sp *sp);
int um_sp_unk(const um_sp *sp);
/* Bytes of text that piece id represents: the length of its spelling, with the space mark counted as one byte; 1 for a byte piece, 0
 * for the unknown piece and for control pieces. */
size_t um_sp_piece_bytes(const um_sp *sp, int32_t id);
/* The byte that a byte piece stands for; -1 for any other piece. */
int um_sp_byte(const um_sp *sp, int32_t id);
/* Calls take for every id of text. Returns 0, or -1 on failure. */
int um_sp_encode(const um_sp *sp, const char *text, size_t n, void (*take)(void *ctx, int32_t id),
                 void *ctx);
/* The same, with the byte of text at which what the id stands for begins. */
int um_sp_encode_at(const um_sp *sp, const char *text, size_t n,
                    void (*take)(void *ctx, int32_t id, size_t at), void *ctx);
/* Calls take once with the text of ids. Returns 0, or -1 on failure. */
int um_sp_decode(const um_sp *sp, const int32_t *ids, int n,
                 void (*take)(void *ctx, const char *text, size_t n), void *ctx);

#ifdef __cplusplus
}
#endif
