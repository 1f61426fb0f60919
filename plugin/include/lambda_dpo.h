/*
 * lambda_dpo.h: the C interface of liblambda_dpo, the lambda-DPO plugin.
 *
 * Generated from plugin/abi by `make generate`. Do not edit.
 *
 * Ask for the function table once, then call through it:
 *
 *     const LambdaDpoApi *api = NULL;
 *     LambdaDpoStatus status = lambda_dpo_get_api(LAMBDA_DPO_ABI_MAJOR, LAMBDA_DPO_ABI_MINOR, &api, NULL);
 *
 * Tensors cross as DLPack, tables as Arrow C streams. This header declares DLPack's structs itself unless a dlpack.h
 * (1.0 or newer) was included before it; if both are needed, include dlpack.h first. Arrow's structs are in Arrow's own
 * guards, so Arrow's headers may come before or after this one.
 *
 * Ownership, threads and errors: see LambdaDpoApi. Valid C11 and C++17.
 */

#ifndef LAMBDA_DPO_H
#define LAMBDA_DPO_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifndef DLPACK_DLPACK_H_

/**
 * Version of the DLPack structs; versions with the same major are compatible.
 */
typedef struct DLPackVersion {
    /**
     * Major version.
     */
    uint32_t major;
    /**
     * Minor version.
     */
    uint32_t minor;
} DLPackVersion;

/**
 * Device of a tensor.
 */
typedef struct DLDevice {
    /**
     * LAMBDA_DPO_DL_CPU or LAMBDA_DPO_DL_CUDA here.
     */
    int32_t device_type;
    /**
     * Ordinal of the device; 0 on the CPU.
     */
    int32_t device_id;
} DLDevice;

/**
 * Element type of a tensor.
 */
typedef struct DLDataType {
    /**
     * One of the LAMBDA_DPO_DL_* type codes.
     */
    uint8_t code;
    /**
     * Bits of one element.
     */
    uint8_t bits;
    /**
     * Always 1 here.
     */
    uint16_t lanes;
} DLDataType;

/**
 * A strided view of memory.
 */
typedef struct DLTensor {
    /**
     * Start of the allocation; NULL for an empty tensor.
     */
    void *data;
    /**
     * Device of the data.
     */
    struct DLDevice device;
    /**
     * Number of dimensions; 0 for a scalar.
     */
    int32_t ndim;
    /**
     * Element type.
     */
    struct DLDataType dtype;
    /**
     * `ndim` sizes.
     */
    int64_t *shape;
    /**
     * `ndim` strides in elements (0 for an expanded dimension); NULL means row-major and compact.
     */
    int64_t *strides;
    /**
     * Bytes from `data` to the first element.
     */
    uint64_t byte_offset;
} DLTensor;

/**
 * A tensor with its owner.
 */
typedef struct DLManagedTensorVersioned {
    /**
     * Version of this struct.
     */
    struct DLPackVersion version;
    /**
     * Private to the owner.
     */
    void *manager_ctx;
    /**
     * Frees the tensor and this struct; called once, by the owner. May be NULL.
     */
    void (*deleter)(struct DLManagedTensorVersioned*);
    /**
     * Bitwise or of flags such as LAMBDA_DPO_DLPACK_FLAG_READ_ONLY.
     */
    uint64_t flags;
    /**
     * The tensor.
     */
    struct DLTensor dl_tensor;
} DLManagedTensorVersioned;

#endif /* DLPACK_DLPACK_H_ */

/**
 * Main memory.
 */
#define LAMBDA_DPO_DL_CPU 1

/**
 * CUDA device memory.
 */
#define LAMBDA_DPO_DL_CUDA 2

/**
 * Signed integer.
 */
#define LAMBDA_DPO_DL_INT 0

/**
 * Unsigned integer.
 */
#define LAMBDA_DPO_DL_UINT 1

/**
 * IEEE floating point.
 */
#define LAMBDA_DPO_DL_FLOAT 2

/**
 * bfloat16.
 */
#define LAMBDA_DPO_DL_BFLOAT 4

/**
 * Boolean, one byte each.
 */
#define LAMBDA_DPO_DL_BOOL 6

/**
 * The tensor must not be written to.
 */
#define LAMBDA_DPO_DLPACK_FLAG_READ_ONLY 1

#ifndef ARROW_C_DATA_INTERFACE
#define ARROW_C_DATA_INTERFACE

#define ARROW_FLAG_DICTIONARY_ORDERED 1
#define ARROW_FLAG_NULLABLE 2
#define ARROW_FLAG_MAP_KEYS_SORTED 4

/**
 * Arrow's C data interface: the type of an array.
 */
struct ArrowSchema {
    /**
     * The type, in Arrow's format strings.
     */
    const char *format;
    /**
     * Name of the field; may be NULL.
     */
    const char *name;
    /**
     * Encoded key-value metadata; may be NULL.
     */
    const char *metadata;
    /**
     * A sum of `ARROW_FLAG_*`.
     */
    int64_t flags;
    /**
     * Number of children.
     */
    int64_t n_children;
    /**
     * Child types.
     */
    struct ArrowSchema **children;
    /**
     * Type of the dictionary's values; NULL if there is none.
     */
    struct ArrowSchema *dictionary;
    /**
     * Called once by the consumer; NULL marks a released struct.
     */
    void (*release)(struct ArrowSchema*);
    /**
     * Private to the producer.
     */
    void *private_data;
};

/**
 * Arrow's C data interface: an array.
 */
struct ArrowArray {
    /**
     * Number of items.
     */
    int64_t length;
    /**
     * Number of nulls; −1 if unknown.
     */
    int64_t null_count;
    /**
     * Number of items before the first one.
     */
    int64_t offset;
    /**
     * Number of buffers.
     */
    int64_t n_buffers;
    /**
     * Number of children.
     */
    int64_t n_children;
    /**
     * Buffers; their number and meaning depend on the type.
     */
    const void **buffers;
    /**
     * Child arrays.
     */
    struct ArrowArray **children;
    /**
     * The dictionary's values; NULL if there is none.
     */
    struct ArrowArray *dictionary;
    /**
     * Called once by the consumer; NULL marks a released struct, and the end of a stream.
     */
    void (*release)(struct ArrowArray*);
    /**
     * Private to the producer.
     */
    void *private_data;
};

#endif /* ARROW_C_DATA_INTERFACE */

#ifndef ARROW_C_STREAM_INTERFACE
#define ARROW_C_STREAM_INTERFACE

/**
 * Arrow's C stream interface: arrays of one schema, one after another. One thread at a time.
 */
struct ArrowArrayStream {
    /**
     * Writes the schema of every array; returns 0 or an `errno` code.
     */
    int (*get_schema)(struct ArrowArrayStream*, struct ArrowSchema *out);
    /**
     * Writes the next array, or a released one at the end; returns 0 or an `errno` code.
     */
    int (*get_next)(struct ArrowArrayStream*, struct ArrowArray *out);
    /**
     * Returns NUL-terminated text about the last failure, valid until the next call; NULL if there is none.
     */
    const char *(*get_last_error)(struct ArrowArrayStream*);
    /**
     * Called once by the consumer; NULL marks a released stream.
     */
    void (*release)(struct ArrowArrayStream*);
    /**
     * Private to the producer.
     */
    void *private_data;
};

#endif /* ARROW_C_STREAM_INTERFACE */

/**
 * Streams samples out of record files or an Arrow stream. One thread at a time.
 */
typedef struct LambdaDpoReader LambdaDpoReader;

/**
 * A tokenizer with its chat template. Any number of threads at once.
 */
typedef struct LambdaDpoTokenizer LambdaDpoTokenizer;

/**
 * A text whose tokens come one by one. One thread at a time.
 */
typedef struct LambdaDpoDecodeStream LambdaDpoDecodeStream;

/**
 * One tokenised sample. Any number of threads at once.
 */
typedef struct LambdaDpoTokenizedSample LambdaDpoTokenizedSample;

/**
 * Tokenised records, ready to be batched. Any number of threads at once.
 */
typedef struct LambdaDpoDataset LambdaDpoDataset;

/**
 * A λ schedule. Any number of threads at once.
 */
typedef struct LambdaDpoSchedule LambdaDpoSchedule;

/**
 * State that a backward needs from its forward. Used once, from any thread.
 */
typedef struct LambdaDpoLossContext LambdaDpoLossContext;

/**
 * Major version of the table: libraries of different major versions are incompatible.
 */
#define LAMBDA_DPO_ABI_MAJOR 1

/**
 * Minor version of the table: grows by one with every revision that appends functions or fields.
 */
#define LAMBDA_DPO_ABI_MINOR 0

/**
 * UltraFeedback's schema: `instruction` and rated `completions`.
 */
#define LAMBDA_DPO_FORMAT_ULTRAFEEDBACK 0

/**
 * `prompt`, `chosen`, `rejected`.
 */
#define LAMBDA_DPO_FORMAT_PAIRS 1

/**
 * `messages`, or ShareGPT's `conversations`.
 */
#define LAMBDA_DPO_FORMAT_CHAT 2

/**
 * `prompt`, `responses`, and `rankings` of them by dimension: with P places, a rank is the rating P + 1 − rank.
 */
#define LAMBDA_DPO_FORMAT_RANKINGS 3

/**
 * M·N padded rows per prompt.
 */
#define LAMBDA_DPO_LAYOUT_EXPANDED 0

/**
 * N padded rows per prompt.
 */
#define LAMBDA_DPO_LAYOUT_ROWS 1

/**
 * Rows of one or several prompts, each followed by its responses.
 */
#define LAMBDA_DPO_LAYOUT_PACKED 2

/**
 * Maximum number of prefetched batches of a dataset.
 */
#define LAMBDA_DPO_PREFETCH_CAPACITY 64

/**
 * λ = u / Σ u with u uniform on (0, 1)^M.
 */
#define LAMBDA_DPO_SCHEDULE_UNIFORM_NORMALIZED 0

/**
 * λ ~ Dir(α·1).
 */
#define LAMBDA_DPO_SCHEDULE_DIRICHLET 1

/**
 * λ = softmax(z), z ~ N(0, I).
 */
#define LAMBDA_DPO_SCHEDULE_GAUSSIAN 2

/**
 * λ = |z| / Σ |z|, z ~ N(0, I).
 */
#define LAMBDA_DPO_SCHEDULE_GAUSSIAN_ABS 3

/**
 * One-hot at a fixed dimension.
 */
#define LAMBDA_DPO_SCHEDULE_UNIMODAL 4

/**
 * One-hot, cycling through the dimensions with the record index and epoch (or the step).
 */
#define LAMBDA_DPO_SCHEDULE_UNIMODAL_CYCLE 5

/**
 * A constant λ.
 */
#define LAMBDA_DPO_SCHEDULE_FIXED 6

/**
 * A row of a table of λ, drawn by probability.
 */
#define LAMBDA_DPO_SCHEDULE_TABLE 7

/**
 * λ-DPO: the listwise cross-entropy against the λ-mixed targets (15). Equations: docs/method.md, "Objectives".
 */
#define LAMBDA_DPO_OBJECTIVE_LISTWISE 0

/**
 * Mean negative log-likelihood of the target tokens.
 */
#define LAMBDA_DPO_OBJECTIVE_SFT 1

/**
 * The likelihood of each dimension's order, in which ties share a place.
 */
#define LAMBDA_DPO_OBJECTIVE_PLACKETT_LUCE 2

/**
 * DPO: −log σ(Δr). This and those below are means over the pairs that a dimension orders, mixed by λ'.
 */
#define LAMBDA_DPO_OBJECTIVE_SIGMOID 3

/**
 * max(0, 1 − Δr).
 */
#define LAMBDA_DPO_OBJECTIVE_HINGE 4

/**
 * IPO: (Δ(s − s^ref) − 1/(2β))².
 */
#define LAMBDA_DPO_OBJECTIVE_IPO 5

/**
 * SimPO: −log σ(β Δs − γ); s is a mean, and there is no reference.
 */
#define LAMBDA_DPO_OBJECTIVE_SIMPO 6

/**
 * ORPO: −s_w − β log σ(Δ log-odds); s is a mean, and there is no reference.
 */
#define LAMBDA_DPO_OBJECTIVE_ORPO 7

/**
 * s is the sum of a response's token log-probs.
 */
#define LAMBDA_DPO_REDUCTION_SUM 0

/**
 * s is their mean.
 */
#define LAMBDA_DPO_REDUCTION_MEAN 1

/**
 * The gradient of `hidden` is wanted.
 */
#define LAMBDA_DPO_WANTS_HIDDEN 1

/**
 * The gradient of `lm_head` is wanted.
 */
#define LAMBDA_DPO_WANTS_LM_HEAD 2

/**
 * The gradient of `logits` is wanted.
 */
#define LAMBDA_DPO_WANTS_LOGITS 4

/**
 * The gradient of `sequence_log_probs` is wanted.
 */
#define LAMBDA_DPO_WANTS_SEQUENCE_LOG_PROBS 8

/**
 * Result of a call: LAMBDA_DPO_STATUS_OK, or the kind of failure that the error message describes.
 */
typedef int32_t LambdaDpoStatus;

/**
 * Borrowed UTF-8 text: pointer and length in bytes, not NUL-terminated. `data` may be NULL if `len` is 0.
 *
 * An argument must stay valid until the call returns. Text in an output (only LambdaDpoBuildInfo has any)
 * lives as long as the library.
 */
typedef struct LambdaDpoStr {
    /**
     * First byte.
     */
    const uint8_t *data;
    /**
     * Length in bytes.
     */
    size_t len;
} LambdaDpoStr;

/**
 * Text or bytes that the plugin returns and the caller owns: pass it to `bytes_free` once.
 */
typedef struct LambdaDpoBytes {
    /**
     * First byte; NULL if there is nothing (at the end of a reader).
     */
    uint8_t *data;
    /**
     * Length in bytes.
     */
    size_t len;
    /**
     * Private to the plugin.
     */
    size_t capacity;
} LambdaDpoBytes;

/**
 * Receives the message of a failed call. The caller owns it and its `buffer`; every call accepts NULL instead.
 */
typedef struct LambdaDpoError {
    /**
     * `sizeof` of this struct as the caller knows it.
     */
    size_t struct_size;
    /**
     * Receives UTF-8, truncated between characters if `capacity` is too small; not NUL-terminated. May be NULL.
     */
    uint8_t *buffer;
    /**
     * Size of `buffer` in bytes.
     */
    size_t capacity;
    /**
     * Out: length of the whole message in bytes, which may exceed `capacity`; 0 on success.
     */
    size_t len;
} LambdaDpoError;

/**
 * Called from time to time during long work, on the thread of the call. A return value other than 0 asks the call to
 * stop, which then fails with LAMBDA_DPO_STATUS_CANCELLED. `total` is 0 if it is not known.
 */
typedef int32_t (*LambdaDpoProgress)(void *user, uint64_t done, uint64_t total);

/**
 * A tensor, in or out; NULL if it is optional and absent.
 *
 * In: borrowed for the call, its deleter is never called. Out: owned by the caller, who calls its deleter.
 */
typedef DLManagedTensorVersioned *LambdaDpoTensor;

/**
 * The result of collation: tensors on the CPU, owned by the caller.
 *
 * To keep a tensor, copy its pointer and set the field to NULL; `batch_free` frees the others. R rows of T tokens, B
 * prompts, M dimensions, C candidate responses (the sum of N over the prompts), S sequences (C, or M·C in the expanded
 * layout), K target tokens. All integers are int64.
 */
typedef struct LambdaDpoBatch {
    /**
     * `sizeof` of this struct as the caller knows it.
     */
    size_t struct_size;
    /**
     * `[R, T]` token ids; the pad id at padding.
     */
    LambdaDpoTensor input_ids;
    /**
     * `[R, T]` 1 at tokens, 0 at padding.
     */
    LambdaDpoTensor attention_mask;
    /**
     * `[R, T]` position of each token in its own sequence (restarts after the prompt for each packed response).
     */
    LambdaDpoTensor position_ids;
    /**
     * `[R, T]` the token id at targets, −100 at all other positions.
     */
    LambdaDpoTensor labels;
    /**
     * `[R, T]` index in the batch of the prompt that each token belongs to; −1 at padding.
     */
    LambdaDpoTensor prompt_ids;
    /**
     * `[R, T]` index of the sequence that each response token belongs to; −1 at prompt tokens and padding.
     *
     * A token attends to itself and to those before it in its row that have the same prompt id and either the same
     * sequence id or −1.
     */
    LambdaDpoTensor sequence_ids;
    /**
     * `[K]` index into the flattened `[R·T]` of the position whose hidden state predicts each target.
     */
    LambdaDpoTensor target_positions;
    /**
     * `[K]` id of each target token.
     */
    LambdaDpoTensor target_ids;
    /**
     * `[K]` index of the sequence that each target belongs to, ascending.
     */
    LambdaDpoTensor target_sequences;
    /**
     * `[S]` number of target tokens of each sequence.
     */
    LambdaDpoTensor sequence_num_tokens;
    /**
     * `[S]` index in the batch of the prompt that each sequence answers.
     */
    LambdaDpoTensor sequence_prompts;
    /**
     * `[S]` index in its record of each sequence's response, counted before any were dropped.
     */
    LambdaDpoTensor sequence_responses;
    /**
     * `[B + 1]` responses of prompt b are the columns `prompt_offsets[b] .. prompt_offsets[b + 1]` of the C.
     */
    LambdaDpoTensor prompt_offsets;
    /**
     * `[M, C]` index of each response's sequence in each dimension; dimensions differ in the expanded layout only.
     */
    LambdaDpoTensor sequence_index;
    /**
     * `[M, C]` float32 target distribution of each dimension over each prompt's responses; 0 if masked.
     */
    LambdaDpoTensor pi_target;
    /**
     * `[M, C]` bool: the dimension counts for this prompt and rates this response.
     */
    LambdaDpoTensor target_mask;
    /**
     * `[M, C]` place of each response among those of its prompt that the dimension rates: 1 is best, equal ones tie,
     * and the next is one more; 0 if masked. The order is that of the ratings where these are known, else that of
     * `pi_target`, in which ratings that lie far apart may tie at 0.
     */
    LambdaDpoTensor ranks;
    /**
     * `[B, M]` float32 λ': λ renormalised over the dimensions that count for the prompt; all 0 if none of them has
     * weight.
     */
    LambdaDpoTensor lambda;
    /**
     * `[B]` index of each record in the concatenated inputs.
     */
    LambdaDpoTensor record_indices;
    /**
     * Number of prompts with a dimension of positive weight: the loss is a mean over these.
     */
    uint64_t num_contributing;
} LambdaDpoBatch;

/**
 * Inputs of `log_probs` and `loss_forward`: exactly one of hidden states with the LM head, logits, or sequence
 * log-probs; and the targets. All are borrowed for the call.
 *
 * Letters of shapes as in LambdaDpoBatch; H is the hidden size, V the vocabulary size. What is scored (`hidden` with
 * `lm_head`, `logits`, or `sequence_log_probs`) is on any device; the fields after it are on the CPU, where they are
 * read, as LambdaDpoBatch returns them.
 */
typedef struct LambdaDpoLossInputs {
    /**
     * `sizeof` of this struct as the caller knows it.
     */
    size_t struct_size;
    /**
     * `[R, T, H]` or `[R·T, H]` final hidden states, after the last norm.
     */
    LambdaDpoTensor hidden;
    /**
     * `[V, H]` weight of the LM head; required with `hidden`.
     */
    LambdaDpoTensor lm_head;
    /**
     * `[R, T, V]` or `[R·T, V]`.
     */
    LambdaDpoTensor logits;
    /**
     * `[S]` sequence log-probs (sums, or means under the mean reduction), computed by the caller; no target fields
     * needed.
     */
    LambdaDpoTensor sequence_log_probs;
    /**
     * `[K]` int64, see LambdaDpoBatch; on the CPU, like all tensors below.
     */
    LambdaDpoTensor target_positions;
    /**
     * `[K]` int64, see LambdaDpoBatch.
     */
    LambdaDpoTensor target_ids;
    /**
     * `[K]` int64, see LambdaDpoBatch.
     */
    LambdaDpoTensor target_sequences;
    /**
     * S.
     */
    uint64_t num_sequences;
    /**
     * `[S]` int64, see LambdaDpoBatch: number of tokens that each of `sequence_log_probs` is a sum of; needed if
     * `options.sft_weight` is above 0. NULL otherwise, or if the target fields say it.
     */
    LambdaDpoTensor sequence_num_tokens;
    /**
     * `[S]` sequence log-probs under the reference policy, reduced as `options.reduction` says; NULL means s^ref = 0,
     * and is the only choice for objectives without a reference (SimPO, ORPO, SFT).
     */
    LambdaDpoTensor reference_log_probs;
    /**
     * `[B + 1]` int64; for all objectives but SFT, like the fields after it.
     */
    LambdaDpoTensor prompt_offsets;
    /**
     * `[M, C]` int64; NULL if response c is sequence c in every dimension.
     */
    LambdaDpoTensor sequence_index;
    /**
     * `[M, C]` floating point.
     */
    LambdaDpoTensor pi_target;
    /**
     * `[M, C]` bool; NULL if every dimension rates every response.
     */
    LambdaDpoTensor target_mask;
    /**
     * `[M, C]` int64 place of each response in its prompt's order: 1 is the best, and equal numbers tie; read where
     * `target_mask` is set, by the objectives of orders and pairs. NULL means the order of `pi_target`.
     */
    LambdaDpoTensor ranks;
    /**
     * `[B, M]` floating point λ': that of the batch, or of `renormalize_lambda`.
     */
    LambdaDpoTensor lambda;
    /**
     * The `cudaStream_t` on which the call queues its work, if the tensors are on a CUDA device: inputs must be ready,
     * and outputs become ready, in the order of the stream. NULL means libtorch's current stream of the calling
     * thread, which suits trainers that use PyTorch; CUDA's handles 1 and 2 are its legacy and its per-thread default
     * stream.
     */
    void *cuda_stream;
} LambdaDpoLossInputs;

/**
 * Outputs of `loss_forward`; the tensors are owned by the caller, on the CPU, whatever the device of the inputs.
 */
typedef struct LambdaDpoLossOutputs {
    /**
     * `sizeof` of this struct as the caller knows it.
     */
    size_t struct_size;
    /**
     * `[]` float64 the loss, divided by the normaliser.
     */
    LambdaDpoTensor loss;
    /**
     * `[K]` float32 (float64 for float64 inputs); NULL if sequence log-probs were given.
     */
    LambdaDpoTensor token_log_probs;
    /**
     * `[S]` sums (or means under the mean reduction), dtype as above.
     */
    LambdaDpoTensor sequence_log_probs;
    /**
     * `[S]` float64 β (s − s^ref); NULL for the SFT objective, like all fields below.
     */
    LambdaDpoTensor rewards;
    /**
     * `[B]` float64 Σ_k λ'_k L^(k) + `sft_weight` times `sft_losses`; 0 for a prompt that does not contribute.
     */
    LambdaDpoTensor prompt_losses;
    /**
     * `[B, M]` float64 L^(k); 0 if the dimension does not count for the prompt.
     */
    LambdaDpoTensor dimension_losses;
    /**
     * `[B, M]` bool: the dimension counts for the prompt.
     */
    LambdaDpoTensor dimension_mask;
    /**
     * `[B]` float64: 1 if the response with the highest reward is the best under λ'; ties share the credit.
     */
    LambdaDpoTensor accuracies;
    /**
     * `[B, M]` float64: the same under each dimension's own target distribution.
     */
    LambdaDpoTensor dimension_accuracies;
    /**
     * `[B]` float64 reward of the best response under λ' minus that of the worst.
     */
    LambdaDpoTensor margins;
    /**
     * `[B]` float64 mean negative log-likelihood per token of the best response under λ'; NULL unless `sft_weight` is
     * above 0 or the objective is ORPO.
     */
    LambdaDpoTensor sft_losses;
} LambdaDpoLossOutputs;

/**
 * Gradients from `loss_backward`, in the dtypes and on the devices of their inputs; NULL for those not requested.
 */
typedef struct LambdaDpoLossGradients {
    /**
     * `sizeof` of this struct as the caller knows it.
     */
    size_t struct_size;
    /**
     * Shape of `hidden`.
     */
    LambdaDpoTensor hidden;
    /**
     * `[V, H]`.
     */
    LambdaDpoTensor lm_head;
    /**
     * Shape of `logits`.
     */
    LambdaDpoTensor logits;
    /**
     * `[S]`.
     */
    LambdaDpoTensor sequence_log_probs;
} LambdaDpoLossGradients;

/**
 * Versions of this build; the strings live as long as the library.
 */
typedef struct LambdaDpoBuildInfo {
    /**
     * `sizeof` of this struct as the caller knows it.
     */
    size_t struct_size;
    /**
     * Version of the plugin.
     */
    struct LambdaDpoStr version;
    /**
     * Version of torch that it was built against and must run with.
     */
    struct LambdaDpoStr torch_version;
} LambdaDpoBuildInfo;

/**
 * How records are read and converted.
 */
typedef struct LambdaDpoConvertOptions {
    /**
     * `sizeof` of this struct as the caller knows it.
     */
    size_t struct_size;
    /**
     * One of the LAMBDA_DPO_FORMAT_*.
     */
    uint32_t format;
    /**
     * 1: reduce each rated or ranked record to a pair of its best and worst responses by mean rating; records in which
     * they tie are skipped and counted.
     */
    uint32_t best_worst_pairs;
    /**
     * Names of the dimensions, in order; NULL means all names that the inputs use, sorted.
     */
    const struct LambdaDpoStr *dimensions;
    /**
     * Length of `dimensions`.
     */
    size_t num_dimensions;
    /**
     * Rating that replaces a missing one; NaN masks the response in that dimension instead.
     */
    double missing_rating;
    /**
     * Temperature of the softmax over ratings, above 0.
     */
    double temperature;
    /**
     * Maximum number of records to read; 0 for all.
     */
    uint64_t max_samples;
    /**
     * Records with one of these as `source` are left out and counted.
     */
    const struct LambdaDpoStr *exclude_sources;
    /**
     * Length of `exclude_sources`.
     */
    size_t num_exclude_sources;
    /**
     * 1: keep every record that parses, whatever its ratings and its number of responses (scoring needs no ratings).
     */
    uint32_t keep_all;
    /**
     * Must be 0; reserved for a later version.
     */
    uint32_t reserved;
} LambdaDpoConvertOptions;

/**
 * How samples are tokenised.
 */
typedef struct LambdaDpoTokenizeOptions {
    /**
     * `sizeof` of this struct as the caller knows it.
     */
    size_t struct_size;
    /**
     * Maximum length of prompt + longest response in tokens; 0 for no limit.
     */
    uint64_t cutoff_len;
    /**
     * 1: keep samples with fewer than two responses, and responses without a token (for scoring).
     */
    uint32_t keep_all;
    /**
     * Must be 0; reserved for a later version.
     */
    uint32_t reserved;
} LambdaDpoTokenizeOptions;

/**
 * How samples are collated to a batch.
 */
typedef struct LambdaDpoCollateOptions {
    /**
     * `sizeof` of this struct as the caller knows it.
     */
    size_t struct_size;
    /**
     * One of the LAMBDA_DPO_LAYOUT_*.
     */
    uint32_t layout;
    /**
     * Packed layout: prompts share a row of at most this many tokens; 0 for one prompt per row.
     */
    uint64_t max_tokens;
    /**
     * Rows are padded to a multiple of this; 0 for 8.
     */
    uint64_t pad_to_multiple_of;
    /**
     * Token id at padding.
     */
    int64_t pad_token_id;
} LambdaDpoCollateOptions;

/**
 * How a dataset is opened: stages 1 to 3, with the options of the calls for single records.
 */
typedef struct LambdaDpoDatasetOptions {
    /**
     * `sizeof` of this struct as the caller knows it.
     */
    size_t struct_size;
    /**
     * Borrowed for the call.
     */
    const struct LambdaDpoConvertOptions *convert;
    /**
     * Borrowed for the call.
     */
    const struct LambdaDpoTokenizeOptions *tokenize;
    /**
     * Receives the number of records done from time to time (0 while files are hashed for the cache); may be NULL.
     */
    LambdaDpoProgress progress;
    /**
     * Passed to `progress` as `user`.
     */
    void *progress_user;
    /**
     * Folder in which tokenised records are kept for later openings, in files named by a hash of the records'
     * contents, the tokenizer and all options; created if missing. One file may serve any number of processes. Empty:
     * the tokens are in an unnamed temporary file that is gone with the dataset.
     */
    struct LambdaDpoStr cache_dir;
} LambdaDpoDatasetOptions;

/**
 * A λ schedule. Equations: docs/method.md, "λ schedules".
 */
typedef struct LambdaDpoScheduleOptions {
    /**
     * `sizeof` of this struct as the caller knows it.
     */
    size_t struct_size;
    /**
     * One of the LAMBDA_DPO_SCHEDULE_*.
     */
    uint32_t kind;
    /**
     * Index of the dimension (unimodal).
     */
    uint32_t dimension;
    /**
     * M.
     */
    size_t num_dimensions;
    /**
     * α of the Dirichlet distribution, above 0.
     */
    double alpha;
    /**
     * `[M]` (fixed) or `[rows, M]` (table), row-major; each row must sum to 1 within 1e-3 and is renormalised.
     */
    const double *weights;
    /**
     * Rows of `weights` (table); 1 for fixed.
     */
    size_t num_rows;
    /**
     * `[rows]` sampling weights of the table's rows: not negative, and not all 0.
     */
    const double *probabilities;
} LambdaDpoScheduleOptions;

/**
 * How log-probs and loss are computed.
 */
typedef struct LambdaDpoLossOptions {
    /**
     * `sizeof` of this struct as the caller knows it.
     */
    size_t struct_size;
    /**
     * One of the LAMBDA_DPO_OBJECTIVE_*.
     */
    uint32_t objective;
    /**
     * One of the LAMBDA_DPO_REDUCTION_*.
     */
    uint32_t reduction;
    /**
     * β (17), above 0; that of ORPO's odds ratio. SFT has none.
     */
    double beta;
    /**
     * `OBJECTIVE_SIGMOID`: probability that a preference is wrong, at least 0 and below 0.5; 0 for the others.
     */
    double label_smoothing;
    /**
     * `OBJECTIVE_SIMPO`: the margin γ, at least 0; 0 for the others.
     */
    double simpo_gamma;
    /**
     * Weight, at least 0, of the mean negative log-likelihood per token of each prompt's best response under λ', which
     * is added to the loss; ties share it. 0 for SFT.
     */
    double sft_weight;
    /**
     * Divisor of the loss: number of contributing prompts, or target tokens (SFT), of the whole optimiser step; 0 means
     * that of this call.
     */
    double normalizer;
    /**
     * Bytes of logits that may be alive at once; 0 for the default of 256 MiB.
     */
    uint64_t logits_budget_bytes;
    /**
     * 1: add 1e-10 to the target distributions, as Appendix B of the paper does.
     */
    uint32_t paper_exact;
    /**
     * Gradients that the backward will be asked for: a sum of LAMBDA_DPO_WANTS_*; 0 if there will be no backward.
     */
    uint32_t wants;
} LambdaDpoLossOptions;

/**
 * The function table, revision 1.0.
 *
 * # Growth
 *
 * The table, and every struct that starts with `struct_size`, grows only at its end. A table of a later minor version
 * serves callers of an earlier one, which do not look beyond the fields they know.
 *
 * A caller sets `struct_size` to the `sizeof` of the struct in the header it was compiled with, and zeroes the fields
 * it does not use. Fields beyond the end of a shorter struct count as zero, which always means the behaviour from
 * before the field was added; outputs beyond its end are not written (and leave nothing to free). The fields of
 * revision 1.0 are required. A longer struct, from a header that is newer than the plugin, is accepted if the fields
 * that the plugin does not know are all zero, and rejected with LAMBDA_DPO_STATUS_UNSUPPORTED
 * otherwise; in an output struct the plugin leaves those fields unchanged.
 *
 * # Rules for every function
 *
 * - It returns a status. On failure it fills `error` (which may be NULL) with a message and leaves its outputs
 *   unchanged.
 * - Arguments are borrowed for the call. Outputs are owned by the caller and freed by the function that its comment
 *   names.
 * - Any thread may call it. The comment of a handle's type says how many threads may use one at a time.
 * - A handle is a number, not an address, and no number is used twice: a handle that was freed, or is of another type,
 *   is rejected with LAMBDA_DPO_STATUS_INVALID_ARGUMENT. Freeing NULL, or a handle that was
 *   freed before, does nothing.
 * - A panic inside becomes LAMBDA_DPO_STATUS_PANIC and poisons the handle; the process goes on.
 */
typedef struct LambdaDpoApi {
    /**
     * `sizeof` of this table as the plugin knows it.
     */
    size_t struct_size;
    /**
     * LAMBDA_DPO_ABI_MAJOR of the plugin.
     */
    uint32_t major;
    /**
     * LAMBDA_DPO_ABI_MINOR of the plugin.
     */
    uint32_t minor;
    /**
     * Returns the versions of the library and of its torch.
     */
    LambdaDpoStatus (*build_info)(struct LambdaDpoBuildInfo *info, struct LambdaDpoError *error);
    /**
     * Frees bytes that the plugin returned, and sets them to NULL and 0.
     */
    void (*bytes_free)(struct LambdaDpoBytes *bytes);
    /**
     * Converts one record (JSON) to one sample (JSON). `record_index` is for messages and becomes the sample's index.
     * Returns NULL bytes if the options filter the record out.
     */
    LambdaDpoStatus (*convert_record)(struct LambdaDpoStr record,
                                      uint64_t record_index,
                                      const struct LambdaDpoConvertOptions *options,
                                      struct LambdaDpoBytes *sample,
                                      struct LambdaDpoError *error);
    /**
     * Opens record files (JSON array, JSON lines, Parquet; compressed with gzip or zstd, too) for streaming. Free with
     * `reader_free`.
     */
    LambdaDpoStatus (*reader_open)(const struct LambdaDpoStr *paths,
                                   size_t num_paths,
                                   const struct LambdaDpoConvertOptions *options,
                                   LambdaDpoReader **reader,
                                   struct LambdaDpoError *error);
    /**
     * Opens an Arrow C stream of records: structs and lists as Parquet files hold them. Free with `reader_free`.
     *
     * The plugin takes ownership of the stream and releases it, even if the call fails, unless `stream` itself is
     * invalid (NULL, or released already). Its callbacks are called during `reader_next` and by the stream of
     * `reader_to_arrow`. If the options name no dimensions, the schema must: annotations or rankings are then a struct.
     */
    LambdaDpoStatus (*reader_open_arrow)(struct ArrowArrayStream *stream,
                                         const struct LambdaDpoConvertOptions *options,
                                         LambdaDpoReader **reader,
                                         struct LambdaDpoError *error);
    /**
     * Returns the remaining samples of a reader as an Arrow C stream, in batches that are read on demand.
     *
     * Columns: `prompt` (list of {role, content}; a text is one user turn), `responses` and `dimensions` (lists of
     * utf8), `ratings` and `pi_target` (`[M][N]` lists of float64, null if missing or masked), `record` (uint64),
     * `tools` (utf8: a JSON list, null without tools). A turn with fields beyond {role, content} is a failure. `stream`
     * is overwritten; the caller calls its `release`. It may outlive the reader, and both read the same samples. A
     * failure inside it is an `errno` code, with a message from `get_last_error`; the stream ends there.
     */
    LambdaDpoStatus (*reader_to_arrow)(LambdaDpoReader *reader,
                                       struct ArrowArrayStream *stream,
                                       struct LambdaDpoError *error);
    /**
     * Returns the next sample as JSON; NULL bytes at the end.
     */
    LambdaDpoStatus (*reader_next)(LambdaDpoReader *reader,
                                   struct LambdaDpoBytes *sample,
                                   struct LambdaDpoError *error);
    /**
     * Returns the counts so far as JSON: records read, samples returned, skipped by reason, missing ratings by kind,
     * fields without effect.
     */
    LambdaDpoStatus (*reader_report)(const LambdaDpoReader *reader,
                                     struct LambdaDpoBytes *report,
                                     struct LambdaDpoError *error);
    /**
     * Frees a reader.
     */
    void (*reader_free)(LambdaDpoReader *reader);
    /**
     * Opens the tokenizer of a model folder (`tokenizer.json`, `tokenizer_config.json`, `chat_template.jinja`).
     * `chat_template` is the path of a template to use instead of the folder's own, or empty. Free with
     * `tokenizer_free`.
     */
    LambdaDpoStatus (*tokenizer_open)(struct LambdaDpoStr folder,
                                      struct LambdaDpoStr chat_template,
                                      LambdaDpoTokenizer **tokenizer,
                                      struct LambdaDpoError *error);
    /**
     * Returns JSON: `vocab_size`, `bos_token_id`, `eos_token_id`, `pad_token_id` (null if there is none),
     * `has_chat_template`.
     */
    LambdaDpoStatus (*tokenizer_info)(const LambdaDpoTokenizer *tokenizer,
                                      struct LambdaDpoBytes *info,
                                      struct LambdaDpoError *error);
    /**
     * Renders messages (a JSON list of `{role, content}`, whose other fields the template sees) with the chat template.
     */
    LambdaDpoStatus (*tokenizer_render)(const LambdaDpoTokenizer *tokenizer,
                                        struct LambdaDpoStr messages,
                                        uint32_t add_generation_prompt,
                                        struct LambdaDpoBytes *text,
                                        struct LambdaDpoError *error);
    /**
     * Encodes text as it is (special tokens in it are recognised, none are added) to `[num_tokens]` int64.
     */
    LambdaDpoStatus (*tokenizer_encode)(const LambdaDpoTokenizer *tokenizer,
                                        struct LambdaDpoStr text,
                                        LambdaDpoTensor *ids,
                                        struct LambdaDpoError *error);
    /**
     * Decodes `[num_tokens]` int64 to text.
     */
    LambdaDpoStatus (*tokenizer_decode)(const LambdaDpoTokenizer *tokenizer,
                                        LambdaDpoTensor ids,
                                        uint32_t skip_special_tokens,
                                        struct LambdaDpoBytes *text,
                                        struct LambdaDpoError *error);
    /**
     * Frees a tokenizer; datasets and decode streams made with it stay usable.
     */
    void (*tokenizer_free)(LambdaDpoTokenizer *tokenizer);
    /**
     * Begins a text whose tokens come one by one. The pieces that `decode_stream_step` and `decode_stream_finish` return
     * are whole characters, and joined they are what `tokenizer_decode` makes of all tokens. Free with
     * `decode_stream_free`.
     */
    LambdaDpoStatus (*decode_stream_new)(const LambdaDpoTokenizer *tokenizer,
                                         uint32_t skip_special_tokens,
                                         LambdaDpoDecodeStream **stream,
                                         struct LambdaDpoError *error);
    /**
     * Adds a token and returns the text that is complete with it; NULL bytes if none is. Text is held back while the
     * next tokens may change it: a character of which bytes are missing, and tokens that each stand for one byte
     * (`<0xE2>`) until another token follows.
     */
    LambdaDpoStatus (*decode_stream_step)(LambdaDpoDecodeStream *stream,
                                          int64_t id,
                                          struct LambdaDpoBytes *text,
                                          struct LambdaDpoError *error);
    /**
     * Returns the text that was held back, with U+FFFD for bytes that are no whole character; NULL bytes if there is
     * none. The stream can then be used for another text.
     */
    LambdaDpoStatus (*decode_stream_finish)(LambdaDpoDecodeStream *stream,
                                            struct LambdaDpoBytes *text,
                                            struct LambdaDpoError *error);
    /**
     * Frees a decode stream.
     */
    void (*decode_stream_free)(LambdaDpoDecodeStream *stream);
    /**
     * Tokenises one sample (JSON, as `convert_record` returns it). Returns NULL if nothing is left of it. Free with
     * `tokenized_sample_free`.
     */
    LambdaDpoStatus (*tokenize)(const LambdaDpoTokenizer *tokenizer,
                                struct LambdaDpoStr sample,
                                const struct LambdaDpoTokenizeOptions *options,
                                LambdaDpoTokenizedSample **tokenized,
                                struct LambdaDpoError *error);
    /**
     * Creates a sample from tokens of another tokenizer, as JSON: `record` (its index), `prompt_ids`, `response_ids`
     * (lists of token ids), `response_indices` (the index of each response in the record), `pi_target` (`[M][N]`, null
     * if masked) and, optionally, `ranks` (`[M][N]` as in LambdaDpoBatch, 0 if masked; without them, the order is that of
     * `pi_target`). Free with `tokenized_sample_free`.
     */
    LambdaDpoStatus (*tokenized_sample_new)(struct LambdaDpoStr tokens,
                                            LambdaDpoTokenizedSample **tokenized,
                                            struct LambdaDpoError *error);
    /**
     * Returns a sample's tokens in the JSON of `tokenized_sample_new`, for the caller to store. Fails for a
     * conversation.
     */
    LambdaDpoStatus (*tokenized_sample_tokens)(const LambdaDpoTokenizedSample *sample,
                                               struct LambdaDpoBytes *tokens,
                                               struct LambdaDpoError *error);
    /**
     * Frees a tokenised sample.
     */
    void (*tokenized_sample_free)(LambdaDpoTokenizedSample *sample);
    /**
     * Collates samples; `lambda` is `[num_samples, M]` (NULL if M = 0). Free with `batch_free`.
     */
    LambdaDpoStatus (*collate)(const LambdaDpoTokenizedSample *const *samples,
                               size_t num_samples,
                               const double *lambda,
                               const struct LambdaDpoCollateOptions *options,
                               struct LambdaDpoBatch *batch,
                               struct LambdaDpoError *error);
    /**
     * Frees the tensors that are still in a batch, and sets its fields to NULL.
     */
    void (*batch_free)(struct LambdaDpoBatch *batch);
    /**
     * Reads, converts and tokenises record files, in parallel, or uses what an earlier call kept in
     * `options.cache_dir`. The samples stay on disk. Free with `dataset_free`.
     */
    LambdaDpoStatus (*dataset_open)(const struct LambdaDpoStr *paths,
                                    size_t num_paths,
                                    const LambdaDpoTokenizer *tokenizer,
                                    const struct LambdaDpoDatasetOptions *options,
                                    LambdaDpoDataset **dataset,
                                    struct LambdaDpoError *error);
    /**
     * Like `dataset_open`, from an Arrow C stream of records, of which it takes ownership as `reader_open_arrow` does;
     * its callbacks are called only during this call. `options.cache_dir` must be empty: a stream's contents are known
     * only at its end.
     */
    LambdaDpoStatus (*dataset_open_arrow)(struct ArrowArrayStream *stream,
                                          const LambdaDpoTokenizer *tokenizer,
                                          const struct LambdaDpoDatasetOptions *options,
                                          LambdaDpoDataset **dataset,
                                          struct LambdaDpoError *error);
    /**
     * Returns the number of samples, or 0 for NULL.
     */
    uint64_t (*dataset_len)(const LambdaDpoDataset *dataset);
    /**
     * Returns JSON: `dimensions` (names in order), `report` (as from `reader_report`, with truncated samples and
     * dropped responses), `hash` (of all samples, targets included), `longest_sequence` (tokens of the longest prompt with
     * one of its responses) and `cache`: null, or `path`, `was_read` (whether the tokens came from it) and `damage` (why
     * an existing file was replaced, or null).
     */
    LambdaDpoStatus (*dataset_info)(const LambdaDpoDataset *dataset,
                                    struct LambdaDpoBytes *info,
                                    struct LambdaDpoError *error);
    /**
     * Returns `[len, 5]` int64: each sample's record index, number of responses, number of tokens (with the prompt
     * once), and the two halves of a 128-bit hash of its tokens and their targets but not its ratings: everything that
     * its log-probs depend on besides the model.
     */
    LambdaDpoStatus (*dataset_samples)(const LambdaDpoDataset *dataset,
                                       LambdaDpoTensor *samples,
                                       struct LambdaDpoError *error);
    /**
     * Collates the samples at `indices` (each below the length), or returns the batch that `dataset_prefetch` has
     * collated from the same arguments; `lambda` is `[num_indices, M]`. Free with `batch_free`.
     */
    LambdaDpoStatus (*dataset_batch)(const LambdaDpoDataset *dataset,
                                     const uint64_t *indices,
                                     size_t num_indices,
                                     const double *lambda,
                                     const struct LambdaDpoCollateOptions *options,
                                     struct LambdaDpoBatch *batch,
                                     struct LambdaDpoError *error);
    /**
     * Starts to collate a batch on the dataset's own thread, for a later `dataset_batch` with the same arguments, and
     * returns immediately. Up to LAMBDA_DPO_PREFETCH_CAPACITY batches are held; beyond that the
     * oldest are dropped. This affects only speed: errors of a batch are reported by `dataset_batch`.
     */
    LambdaDpoStatus (*dataset_prefetch)(const LambdaDpoDataset *dataset,
                                        const uint64_t *indices,
                                        size_t num_indices,
                                        const double *lambda,
                                        const struct LambdaDpoCollateOptions *options,
                                        struct LambdaDpoError *error);
    /**
     * Frees a dataset, after its thread has ended.
     */
    void (*dataset_free)(LambdaDpoDataset *dataset);
    /**
     * Creates a λ schedule. Free with `schedule_free`.
     */
    LambdaDpoStatus (*schedule_new)(const struct LambdaDpoScheduleOptions *options,
                                    LambdaDpoSchedule **schedule,
                                    struct LambdaDpoError *error);
    /**
     * Draws λ `[M]` for one prompt instance: a pure function of its arguments.
     */
    LambdaDpoStatus (*schedule_draw_instance)(const LambdaDpoSchedule *schedule,
                                              uint64_t seed,
                                              uint64_t epoch,
                                              uint64_t record_index,
                                              double *lambda,
                                              struct LambdaDpoError *error);
    /**
     * Draws λ `[M]` for one optimiser step: a pure function of its arguments.
     */
    LambdaDpoStatus (*schedule_draw_step)(const LambdaDpoSchedule *schedule,
                                          uint64_t seed,
                                          uint64_t global_step,
                                          double *lambda,
                                          struct LambdaDpoError *error);
    /**
     * Frees a schedule.
     */
    void (*schedule_free)(LambdaDpoSchedule *schedule);
    /**
     * Returns λ' `[B, M]` float32 for a batch whose λ `[B, M]` (floating point) is drawn after it was collated: λ over
     * the dimensions that count for each prompt, scaled to sum to 1 again; all 0 if none of them has weight.
     * `prompt_offsets` and `target_mask` are the batch's. The result is on the CPU.
     */
    LambdaDpoStatus (*renormalize_lambda)(LambdaDpoTensor prompt_offsets,
                                          LambdaDpoTensor target_mask,
                                          LambdaDpoTensor lambda,
                                          LambdaDpoTensor *renormalized,
                                          struct LambdaDpoError *error);
    /**
     * Computes token log-probs `[K]` and sequence log-probs `[S]`, on the CPU, without a loss. Of the options, the
     * reduction and the budget apply; nothing is kept for a backward.
     */
    LambdaDpoStatus (*log_probs)(const struct LambdaDpoLossInputs *inputs,
                                 const struct LambdaDpoLossOptions *options,
                                 LambdaDpoTensor *token_log_probs,
                                 LambdaDpoTensor *sequence_log_probs,
                                 struct LambdaDpoError *error);
    /**
     * Computes the loss. `context` may be NULL if `options.wants` is 0; otherwise free it with `loss_context_free`,
     * after its backward or without one.
     */
    LambdaDpoStatus (*loss_forward)(const struct LambdaDpoLossInputs *inputs,
                                    const struct LambdaDpoLossOptions *options,
                                    struct LambdaDpoLossOutputs *outputs,
                                    LambdaDpoLossContext **context,
                                    struct LambdaDpoError *error);
    /**
     * Computes the gradients of `grad_output` · loss. `inputs` are those of the forward, unchanged, with the same
     * `cuda_stream`. A context serves one backward; a call that rejects its inputs leaves it as it was.
     */
    LambdaDpoStatus (*loss_backward)(LambdaDpoLossContext *context,
                                     const struct LambdaDpoLossInputs *inputs,
                                     double grad_output,
                                     struct LambdaDpoLossGradients *gradients,
                                     struct LambdaDpoError *error);
    /**
     * Frees a context, used or not.
     */
    void (*loss_context_free)(LambdaDpoLossContext *context);
} LambdaDpoApi;

/**
 * Type of the only exported symbol.
 *
 * Writes the table for a caller that was compiled against (`major`, `minor`). The major must equal the plugin's, the
 * minor must not exceed it. The table is static and never freed.
 */
typedef LambdaDpoStatus (*LambdaDpoGetApi)(uint32_t major,
                                           uint32_t minor,
                                           const struct LambdaDpoApi **api,
                                           struct LambdaDpoError *error);

/**
 * Success; outputs are filled.
 */
#define LAMBDA_DPO_STATUS_OK 0

/**
 * An argument is NULL, out of range, of a wrong dtype or shape, or contradicts another.
 */
#define LAMBDA_DPO_STATUS_INVALID_ARGUMENT 1

/**
 * A file is missing, unreadable, or could not be written.
 */
#define LAMBDA_DPO_STATUS_IO 2

/**
 * A record, tokenizer or template does not parse or lacks a field.
 */
#define LAMBDA_DPO_STATUS_INVALID_DATA 3

/**
 * A request that this version does not support: a newer table, a dtype, a device.
 */
#define LAMBDA_DPO_STATUS_UNSUPPORTED 4

/**
 * libtorch failed: out of memory, or an error in a kernel.
 */
#define LAMBDA_DPO_STATUS_TORCH 5

/**
 * A bug in the plugin: it panicked. The handle of the call is poisoned.
 */
#define LAMBDA_DPO_STATUS_PANIC 6

/**
 * The handle was poisoned by an earlier LAMBDA_DPO_STATUS_PANIC, or a context was used a second time.
 */
#define LAMBDA_DPO_STATUS_POISONED 7

/**
 * The progress callback asked to stop.
 */
#define LAMBDA_DPO_STATUS_CANCELLED 8

/**
 * Name of the one exported symbol, for dlsym.
 */
#define LAMBDA_DPO_ENTRY_POINT "lambda_dpo_get_api"

/**
 * The library's one exported symbol; see LambdaDpoGetApi.
 */
LambdaDpoStatus lambda_dpo_get_api(uint32_t major,
                                   uint32_t minor,
                                   const LambdaDpoApi **api,
                                   LambdaDpoError *error);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* LAMBDA_DPO_H */
