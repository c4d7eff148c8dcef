/**
 * What the frames of a delta run and of a comparison say, for both of their ends.
 *
 * RUN_DATA, RUN_RANGES: `epoch` is the number of the run on this link, `index` counts the frames of both kinds from 0,
 * `offset` is that of the first block. A run sends no block twice, so its frames may be applied in any order.
 *
 * DIGESTS, a question: `offset` and `length` are whole blocks, `index` numbers the question on this link.
 *   flags 0: the payload has DIGEST_BYTES for each block (see workers/kernels.ts), in order; `length` is at most
 *   COMPARE_QUESTION_BYTES_MAX.
 *   COMPARE_GROUPS: DIGEST_BYTES for each COMPARE_GROUP_BYTES, the last of which may be shorter. All blocks of a group that differs
 *   are said to differ. Never with COMPARE_ZERO.
 *   COMPARE_ZERO: the blocks read as zeroes on the primary. No payload; `length` is at most COMPARE_ZERO_BYTES_MAX.
 *   COMPARE_TWIN: the mirror compares what it kept by the command `freeze` that ended epoch `epoch`. Without it, it compares
 *   the base of the open run whose number is `epoch`.
 *
 * DIFFERS, the answer: `index`, `offset`, `length`, `epoch` and flags are those of the question. No payload: nothing differs.
 * Else `bitmapBytes(length)` bytes: bit n of byte n >> 3 is set when block n of the question differs; bits past the last
 * block are 0.
 */

export const COMPARE_ZERO = 1;
export const COMPARE_TWIN = 2;
export const COMPARE_GROUPS = 4;
