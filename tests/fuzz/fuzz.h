/* A fuzz program is one function that takes bytes and must neither crash nor read beyond them nor break what it asserts. With
 * UM_FUZZ libFuzzer calls it; else fuzz_replay.c does, with the corpus and fixed mutations of it, as a ctest test. */
#pragma once

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data,
                           size_t size); /* the name is libFuzzer's; returns 0 */
