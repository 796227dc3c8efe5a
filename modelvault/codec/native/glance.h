/* What a glance at a chunk tells: modelvault/codec/glance.py says which signs there are and why, and sees the same. */

#ifndef MODELVAULT_GLANCE_H
#define MODELVAULT_GLANCE_H

#include "numbers.h"

enum { SHORT_SIGN = 2, ANCHORED_SIGN = 4, COARSE_SIGN = 8, LONG_SIGN = 16 };

enum { PLACES = 64, AT_EACH = 16, FEW = PLACES * AT_EACH };

/* A few words from each of many places, each place's side by side; of the reference, those at the same places. Taken
   together before any is looked at: memory is waited for once, where it was at each place. */
typedef struct {
    size_t count;
    uint32_t words[FEW], reference[FEW];
} Few;

__attribute__((always_inline)) static inline void take_few(const Format format, const void *words, size_t n,
                                                           uint32_t *few) {
    if (n <= FEW) {
        for (size_t i = 0; i < n; i++) few[i] = word_at(format, words, i);
        return;
    }
    for (size_t i = 0; i < PLACES; i++) {
        for (size_t j = 0; j < AT_EACH; j++) few[i * AT_EACH + j] = word_at(format, words, i * (n / PLACES) + j);
    }
}

/* The signs of n words that are not equal to the reference; NULL: there is none. They are of one tensor, or of several. */
int glance(Format format, const void *words, const void *reference, size_t n, bool alone);

/* Whether mantissas are as good as random, and signs of both kinds. */
bool are_noise(Format format, const void *words, size_t n);

/* Where the highest and the lowest bit that is set are in numbers other than 0, and how many have theirs there: the
   three in a row for each such pair, in order. There is room for MOST_ENDS. Returns how many pairs there are. */
enum { MOST_ENDS = 1 << 13 };
size_t count_ends(Format format, const void *words, size_t n, int64_t (*ends)[3]);

/* What a piece's words are, with the exponents of the bits that are set in them; those of numbers that are cut only, which
   have few bits. Of pieces that are the reference's nothing else is told. */
typedef struct {
    int64_t same;    /* 1: all words are those of the reference */
    int64_t uncut;   /* words with all their bits, or nearly */
    int64_t present; /* words that are cut, but not 0 */
    int64_t lowest;  /* of their lowest bits the lowest; NO_LOWEST if there are none */
    int64_t longest; /* from the highest to the lowest bit of a word, the most */
    int64_t highest; /* their highest bits in all */
} Survey;

enum { NO_LOWEST = 200 };

void survey_words(Format format, const void *words, const void *reference, size_t n, Survey *survey);

#endif
