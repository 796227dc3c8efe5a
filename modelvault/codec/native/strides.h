/* Bodies of the codec strides-delta, of words of 32 bits. docs/format/codecs.md specifies them; modelvault/codec/strides.py
   says which strides are looked for and why, and finds the same. */

#ifndef MODELVAULT_STRIDES_H
#define MODELVAULT_STRIDES_H

#include "chunk.h"

/* Bytes of scratch memory that the functions below need for n words. */
size_t encode_strides_scratch(size_t n);
size_t decode_strides_scratch(size_t n);

/* Write the body of n words, without the chunk's tail, and return its length; 0 where they did not move by strides, or it
   would take five bits of eight. So many bytes, and BODY_ROOM behind them, may be written to. */
size_t encode_strides(const Kernels *kernels, const void *words, const void *reference, size_t n, Place place,
                      uint8_t *body, void *scratch);

/* Read a body of `length` bytes, without the chunk's tail. Returns NULL, or what is wrong with it. */
const char *decode_strides(const Kernels *kernels, const void *reference, size_t n, const uint8_t *body, size_t length,
                           void *words, void *scratch);

#endif
