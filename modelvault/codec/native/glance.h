/* What a glance at a chunk tells: modelvault/codec/glance.py says which signs there are and why, and sees the same. */

#ifndef MODELVAULT_GLANCE_H
#define MODELVAULT_GLANCE_H

#include "numbers.h"

enum { SHORT_SIGN = 2, ANCHORED_SIGN = 4, COARSE_SIGN = 8 };

/* The signs of n words that are not equal to the reference; NULL: there is none. */
int glance(Format format, const void *words, const void *reference, size_t n);

#endif
