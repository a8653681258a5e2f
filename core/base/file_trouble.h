/* Recognises what a downloaded file often is instead of what its name says, so that the message can name the remedy. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { UM_TROUBLE_TEXT = 320 };

/* Looks at the first bytes of a file that could not be understood: empty, a Git LFS pointer, a web page, a message of a server in
 * plain text, zeros, a compressed archive, a file of PyTorch or of GGUF. On true, out says what it is and what to do; on false (it looks
 * like none of these) out is untouched. */
bool um_file_trouble(char out[UM_TROUBLE_TEXT], const uint8_t *data, size_t size);
