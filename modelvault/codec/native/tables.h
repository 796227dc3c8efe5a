/* Frequencies of tokens: from counts to the tables of a frame, and back. */

#ifndef MODELVAULT_TABLES_H
#define MODELVAULT_TABLES_H

#include "bits.h"
#include "kernels.h"

typedef struct {
    int low, count;                   /* the symbols low .. low + count - 1 */
    uint8_t weights[MAX_ALPHABET];    /* codes of their weights */
    uint16_t frequency[MAX_ALPHABET]; /* of these symbols; they add up to FREQUENCIES */
} Table;

typedef struct {
    int tables;
    uint8_t bounds[MAX_TABLES]; /* table j begins at context bounds[j]; bounds[0] is 0 */
    Table table[MAX_TABLES];
} Model;

/* Choose the tables for counts[CONTEXTS][stride], of which contexts share which; others than those that are used are not
   looked at. There must be a symbol; the counts are added up in place. Returns false for the rare counts that no table
   fits. */
bool model_fit(const Kernels *kernels, Model *model, uint32_t *counts, int stride, Contexts used);

/* The same of tokens that have no contexts, in one table. */
bool model_fit_one(Model *model, const uint32_t counts[MAX_ALPHABET]);

void model_write(const Model *model, BitWriter *writer);

/* Returns false where the stream is not one of a model with symbols below `alphabet`. */
bool model_read(Model *model, BitReader *reader, int alphabet);

#endif
