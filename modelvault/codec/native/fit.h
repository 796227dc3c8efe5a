/* Which predictors do best: modelvault/codec/search.py says what is looked for and why, and finds the same ones. */

#ifndef MODELVAULT_FIT_H
#define MODELVAULT_FIT_H

#include "chunk.h"

enum { MOST_FITTED = 3 };

/* Bytes of scratch memory that `fit` needs for n words. */
size_t fit_scratch(Format format, size_t n);

/* Write the predictors that pay for n words whose reference is `old`, and return how many they are. `length` is that
   of a block, `share` what part of the tensor the words are. */
int fit(const Kernels *kernels, Format format, const void *new_words, const void *old_words, size_t n, size_t length,
        double share, Predictor predictors[MOST_FITTED], void *scratch);

#endif
