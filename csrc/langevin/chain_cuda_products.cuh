// Products of a network's matrices with the columns of a tile of chains, which lie in the block's shared memory.
//
// A warp takes `Chains` columns and 64 rows of the result: each lane two rows, whose weights it reads at once, beside
// its neighbours', for all its columns. Where the result has no more rows than a warp has lanes, the lanes that would
// be idle take parts of the sums.
#pragma once
#include "langevin/chain_cuda_steps.cuh"

namespace cgm::langevin {

// What a lane moves at once.
template <typename acc_t>
struct alignas(16) Word {
  static constexpr int size = 16 / sizeof(acc_t);
  acc_t at[size];
};

// The columns of a tile: value c of chain r is at[c * stride + r]. The stride is an odd number of words, so that words
// of neighbouring rows c lie in different banks.
template <typename acc_t>
struct Tile {
  acc_t* at = nullptr;
  int stride = 0;

  // The word of the chains from `chain` on, the first of a word.
  __device__ __forceinline__ Word<acc_t>& word(int row, int chain) const {
    return *reinterpret_cast<Word<acc_t>*>(at + row * stride + chain);
  }
};

template <typename acc_t>
constexpr int tile_stride(int chains) {
  const int words = (chains + Word<acc_t>::size - 1) / Word<acc_t>::size;
  return (words | 1) * Word<acc_t>::size;
}

// (terms, rows), of which lanes read neighbours: rows lie in pairs, `stride` is even, and what fills it up is 0.
template <typename acc_t>
struct Matrix {
  const acc_t* at = nullptr;
  int stride = 0;
};

CGM_HOST_DEVICE int64_t matrix_stride(int64_t rows) { return (rows + 1) / 2 * 2; }

template <int Rows, typename acc_t>
struct alignas(Rows * sizeof(acc_t)) Weights {
  acc_t at[Rows];
};

// sums[i][j] = Σ_c matrix[c][row + i] · tile[c][j] over c = first, first + every, ...
template <int Rows, int Chains, typename acc_t>
__device__ __forceinline__ void sum_products(const Matrix<acc_t>& matrix, int row, const Tile<acc_t>& tile, int terms,
                                             int first, int every, acc_t (&sums)[Rows][Chains]) {
  constexpr int size = Word<acc_t>::size;
#pragma unroll
  for (int i = 0; i < Rows; ++i) {
#pragma unroll
    for (int j = 0; j < Chains; ++j) sums[i][j] = 0;
  }
  const acc_t* __restrict__ weights = matrix.at + static_cast<int64_t>(first) * matrix.stride + row;
  const acc_t* column = tile.at + first * tile.stride;
  const int turn = every * matrix.stride, step = every * tile.stride;
#pragma unroll 4
  for (int c = first; c < terms; c += every, weights += turn, column += step) {
    const auto weight = *reinterpret_cast<const Weights<Rows, acc_t>*>(weights);
    Word<acc_t> words[Chains / size];
#pragma unroll
    for (int k = 0; k < Chains / size; ++k) words[k] = reinterpret_cast<const Word<acc_t>*>(column)[k];
#pragma unroll
    for (int i = 0; i < Rows; ++i) {
#pragma unroll
      for (int j = 0; j < Chains; ++j) sums[i][j] += weight.at[i] * words[j / size].at[j % size];
    }
  }
}

// Hands the rows of the transposed matrix times the tile to `take`: (row, first chain, sums of Chains chains). The
// warps of the block share the work; `chains` is a multiple of Chains. `finish` then gets each (row, first chain) once
// more, in a loop that is not unrolled, from the lane that took it.
template <int Chains, typename acc_t, typename Take, typename Finish>
__device__ __forceinline__ void multiply_tile(const Matrix<acc_t>& matrix, int rows, int terms, const Tile<acc_t>& tile,
                                              int chains, const Take& take, const Finish& finish) {
  constexpr int held = 2, strip = held * kWarpLanes;
  const bool narrow = rows <= kWarpLanes;
  const int warps = blockDim.x / kWarpLanes, lane = threadIdx.x % kWarpLanes, parts = chains / Chains;
  const int strips = (rows + strip - 1) / strip;
  int lanes = 1;  // of a part of the sums
  while (lanes < rows && lanes < kWarpLanes) lanes *= 2;
  for (int work = threadIdx.x / kWarpLanes; work < parts * strips; work += warps) {
    const int chain = work % parts * Chains;
    const int row = narrow ? lane % lanes : work / parts * strip + held * lane;
    const Tile<acc_t> columns{tile.at + chain, tile.stride};
    int end;  // of the lane's rows
    if (narrow) {
      end = lane < rows ? lane + 1 : row;
      acc_t sums[1][Chains];
      sum_products(matrix, row < rows ? row : 0, columns, terms, lane / lanes, kWarpLanes / lanes, sums);
      for (int apart = lanes; apart < kWarpLanes; apart *= 2) {
#pragma unroll
        for (int j = 0; j < Chains; ++j) sums[0][j] += __shfl_xor_sync(kAllLanes, sums[0][j], apart);
      }
      if (row < end) take(row, chain, sums[0]);
    } else {
      end = row + held < rows ? row + held : rows;
      acc_t sums[held][Chains];
      sum_products(matrix, row < rows ? row : 0, columns, terms, 0, 1, sums);
#pragma unroll
      for (int i = 0; i < held; ++i) {
        if (row + i < end) take(row + i, chain, sums[i]);
      }
    }
#pragma unroll 1
    for (int own = row; own < end; ++own) finish(own, chain);
  }
}

}  // namespace cgm::langevin
