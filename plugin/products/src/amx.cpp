// Products of 16-bit matrices with a float32 result, which libtorch's operators do not return on a CPU, by the kernels
// of its attention. lib.rs is the Rust side.
#include "guarded.h"

#include <ATen/TensorIterator.h>
#include <ATen/core/Tensor.h>
#include <ATen/native/CPUBlas.h>
#include <ATen/ops/arange.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace {

namespace blas = at::native::cpublas;

// Rows and columns of the result that one call of a kernel computes, and terms of its sums. The kernels take a packed
// right operand whose rows are 16, 32, 48 or 64 columns long.
constexpr int64_t ROWS = 128, COLUMNS = 64, TERMS = 4096;

// A row-major matrix, or the transpose of one.
template <typename T> struct Matrix {
  const T *data;
  int64_t stride;
  bool is_transposed;
};

// Packs terms × columns of `right` as the kernels want them: two consecutive terms of a column side by side. There is an
// even number of terms; columns that are missing are 0.
template <typename T>
void pack(const Matrix<T> &right, int64_t term, int64_t terms, int64_t column, int64_t columns, uint32_t *packed) {
  const auto bits = [](T value) { return static_cast<uint32_t>(value.x); };
  if (columns < COLUMNS) std::fill(packed, packed + terms / 2 * COLUMNS, 0);
  if (!right.is_transposed) {
    for (int64_t pair = 0; pair < terms / 2; ++pair) {
      const T *even = right.data + (term + 2 * pair) * right.stride + column, *odd = even + right.stride;
      for (int64_t j = 0; j < columns; ++j) packed[pair * COLUMNS + j] = bits(even[j]) | bits(odd[j]) << 16;
    }
    return;
  }
  // A few pairs at a time, so that a cache line is written as a whole.
  constexpr int64_t PAIRS = 16;
  for (int64_t first = 0; first < terms / 2; first += PAIRS) {
    const int64_t end = std::min(first + PAIRS, terms / 2);
    for (int64_t j = 0; j < columns; ++j) {
      const T *from = right.data + (column + j) * right.stride + term;
      for (int64_t pair = first; pair < end; ++pair) {
        packed[pair * COLUMNS + j] = bits(from[2 * pair]) | bits(from[2 * pair + 1]) << 16;
      }
    }
  }
}

// Calls `body` with every number below `count`, in a few ranges, by the threads of libtorch. Its own parallel loop is a
// template that would need this file to be compiled for the OpenMP that libtorch brings along.
template <typename Body> void in_parallel(int64_t count, const Body &body) {
  at::Tensor numbers = at::arange(count, at::kLong);
  auto iterator = at::TensorIterator::nullary_op(numbers);
  iterator.for_each(
      [&](char **data, const int64_t *strides, int64_t length, int64_t rows) {
        for (int64_t row = 0; row < rows; ++row) {
          const int64_t begin = *reinterpret_cast<const int64_t *>(data[0] + row * strides[1]);
          body(begin, begin + length);
        }
      },
      /*grain_size=*/1);
}

// result (+)= left · right, with `m` rows, `n` columns and `k` terms.
template <typename T>
void product(const T *left, int64_t left_stride, const Matrix<T> &right, float *result, int64_t result_stride, int64_t m,
             int64_t n, int64_t k, bool accumulates) {
  const int64_t even = k / 2 * 2;
  in_parallel((n + COLUMNS - 1) / COLUMNS, [&](int64_t begin, int64_t end) {
    std::vector<uint32_t> packed(std::min(even, TERMS) / 2 * COLUMNS);
    for (int64_t column = begin * COLUMNS; column < std::min(n, end * COLUMNS); column += COLUMNS) {
      const int64_t columns = std::min(COLUMNS, n - column);
      for (int64_t term = 0; term < even; term += TERMS) {
        const int64_t terms = std::min(TERMS, even - term);
        pack(right, term, terms, column, columns, packed.data());
        for (int64_t row = 0; row < m; row += ROWS) {
          blas::brgemm(std::min(ROWS, m - row), columns, terms, left_stride, COLUMNS, result_stride,
                       accumulates || term > 0, left + row * left_stride + term,
                       reinterpret_cast<const T *>(packed.data()), result + row * result_stride + column);
        }
      }
      // The kernels take terms in pairs: one that is left over is added here.
      if (even == k) continue;
      const int64_t across = right.is_transposed ? right.stride : 1, along = right.is_transposed ? 1 : right.stride;
      const T *last = right.data + (k - 1) * along + column * across;
      for (int64_t row = 0; row < m; ++row) {
        const float weight = static_cast<float>(left[row * left_stride + k - 1]);
        float *to = result + row * result_stride + column;
        for (int64_t j = 0; j < columns; ++j) {
          const float before = k > 1 || accumulates ? to[j] : 0.0f;
          to[j] = before + weight * static_cast<float>(last[j * across]);
        }
      }
    }
    blas::brgemm_release();
  });
}

template <typename T>
void dispatch(const at::Tensor &left, const at::Tensor &right, const at::Tensor &result, bool accumulates) {
  const bool is_transposed = right.stride(1) != 1;
  const Matrix<T> matrix{right.const_data_ptr<T>(), right.stride(is_transposed ? 1 : 0), is_transposed};
  product(left.const_data_ptr<T>(), left.stride(0), matrix, result.mutable_data_ptr<float>(), result.stride(0),
          left.size(0), right.size(1), left.size(1), accumulates);
}

} // namespace

extern "C" {

// Whether this processor has kernels for the dtype.
bool ldpo_has_amx(bool is_bfloat16) {
  try {
    return blas::could_pack(is_bfloat16 ? at::kBFloat16 : at::kHalf);
  } catch (...) {
    return false;
  }
}

// result (+)= left · right. The operands are bfloat16 or float16 of fitting shapes, the result is float32, all on a CPU;
// the left operand and the result have rows without gaps, the right one rows or columns without gaps.
char *ldpo_amx_product(const at::Tensor *left, const at::Tensor *right, const at::Tensor *result, bool accumulates) {
  return guarded([&] {
    if (left->scalar_type() == at::kBFloat16) {
      dispatch<at::BFloat16>(*left, *right, *result, accumulates);
    } else {
      dispatch<at::Half>(*left, *right, *result, accumulates);
    }
  });
}
}
