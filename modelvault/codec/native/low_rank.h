/* Bodies of the codecs low-rank and low-rank-delta. docs/format/codecs.md specifies them; modelvault/codec/low_rank.py says
   what is looked at and why, and finds the same. */

#ifndef MODELVAULT_LOW_RANK_H
#define MODELVAULT_LOW_RANK_H

#include "chunk.h"

/* Bytes of scratch memory that the functions below need. */
size_t encode_low_rank_scratch(const Task *task, Place place);
size_t decode_low_rank_scratch(const Task *task);

/* Write a body, without the chunk's tail, that is shorter than `limit`, and return its length; 0 where there are no
   directions that are worth their bytes. Says whether it is a delta. */
size_t encode_low_rank(const Kernels *kernels, const Task *task, Place place, const void *words, uint8_t *body,
                       size_t limit, bool *is_delta, void *scratch);

/* Whether a body of a delta needs no reference but the first. */
bool looks_at_first(const uint8_t *body, size_t length);

/* Read a body of `length` bytes, without the chunk's tail. Returns NULL, or what is wrong with it. */
const char *decode_low_rank(const Kernels *kernels, const Task *task, bool is_delta, const uint8_t *body, size_t length,
                            void *words, void *scratch);

#endif
