/* A SentencePiece vocabulary for models that are made from scratch. */
#pragma once

#include "core/base/json.h"

enum { UM_VOCABULARY_MIN = 260 }; /* three control pieces, 256 bytes, the space */

/* The bytes of a tokenizer.model (protobuf ModelProto) with exactly n pieces, n >= UM_VOCABULARY_MIN: <unk> <s> </s>, the 256
 * bytes, "▁" and the ASCII characters, common English fragments, then all letter pairs and triples, then unused fillers. BPE with
 * byte fallback, so that every text can be encoded and decoded. */
void um_vocabulary_write(um_text *t, int n);
