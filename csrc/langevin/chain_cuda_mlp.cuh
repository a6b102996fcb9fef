// Chains on a network's energy: a block takes a tile of chains through all steps.
//
// A step is one sweep forward over the layers, which leaves the derivatives of the activations, and one back, which
// turns them into the gradient by the input; the energy itself is not needed. The values of the tile lie in the block's
// shared memory, or in a workspace where they do not fit; the weights come from the caches, once for a tile.
#pragma once
#include <algorithm>

#include "common/cuda_activations.cuh"
#include "common/dynamic_shared.h"
#include "langevin/chain_cuda_products.cuh"

namespace cgm::langevin {

constexpr int kMlpThreads = 256;

// Where the numbers of a tile lie, in rows of `stride`.
struct MlpRows {
  int noise = 0, gradient = 0;  // x is the first
  int values[2] = {0, 0};       // of the hidden layers in turn
  int slopes[most_layers];      // of each hidden layer, then its part of the gradient
  int factors = 0;              // of the projection, one for each chain
  int rows = 0;
};

template <typename scalar_t>
MlpRows mlp_rows(const MlpEnergy<scalar_t>& energy) {
  MlpRows rows;
  const int dims = static_cast<int>(energy.widths[0]), hidden = static_cast<int>(energy.layers) - 1;
  int most[2] = {0, 0};
  for (int layer = 0; layer + 1 < hidden; ++layer) {
    most[layer % 2] = std::max(most[layer % 2], static_cast<int>(energy.widths[layer + 1]));
  }
  rows.noise = dims;
  rows.gradient = 2 * dims;
  rows.values[0] = 3 * dims;
  rows.values[1] = rows.values[0] + most[0];
  rows.rows = rows.values[1] + most[1];
  for (int layer = 0; layer < hidden; ++layer) {
    rows.slopes[layer] = rows.rows;
    rows.rows += static_cast<int>(energy.widths[layer + 1]);
  }
  rows.factors = rows.rows;
  rows.rows += 1;
  return rows;
}

// The weights of the hidden layers as the sweeps read them.
template <typename scalar_t>
struct MlpMatrices {
  Matrix<scalar_t> forward[most_layers];  // (inputs, units)
  Matrix<scalar_t> back[most_layers];     // (units, inputs)
};

// One thread for each place of the larger of the two.
template <typename scalar_t>
__global__ void arrange_kernel(const scalar_t* weights, int64_t units, int64_t inputs, scalar_t* forward,
                               scalar_t* back) {
  const int64_t place = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t unit_stride = matrix_stride(units), input_stride = matrix_stride(inputs);
  const int64_t unit = place / input_stride, input = place % input_stride;
  if (unit >= unit_stride) return;
  const scalar_t weight = unit < units && input < inputs ? weights[unit * inputs + input] : scalar_t(0);
  if (input < inputs) forward[input * unit_stride + unit] = weight;
  if (unit < units) back[unit * input_stride + input] = weight;
}

// The tile of one block.
template <typename acc_t>
struct MlpTile {
  acc_t* numbers;
  int64_t first;  // of its chains
  int count;      // of those that exist
  int chains, stride;

  __device__ __forceinline__ Tile<acc_t> rows(int row) const { return {numbers + row * stride, stride}; }
  __device__ __forceinline__ acc_t& at(int row, int chain) const { return numbers[row * stride + chain]; }
};

// The last threads of the block draw, while the first ones begin with the first layer.
template <typename acc_t>
__device__ __forceinline__ void tile_noise(const MlpTile<acc_t>& tile, int dims, int noise, const NoiseStream& stream) {
  const int64_t first = tile.first * dims, last = first + static_cast<int64_t>(tile.count) * dims;
  for (int64_t group = first / 4 + (blockDim.x - 1 - threadIdx.x); 4 * group < last; group += blockDim.x) {
    acc_t normals[4];
    stream.draw(group, normals);
#pragma unroll
    for (int word = 0; word < 4; ++word) {
      const int64_t element = 4 * group + word;
      if (element < first || element >= last) continue;
      const int place = static_cast<int>(element - first);
      tile.at(noise + place % dims, place / dims) = normals[word];
    }
  }
}

// Sums become values and slopes in the memory of the lane that took them: between registers, with every activation
// unrolled over them, the code would be many times as long. The slopes of the last hidden layer are those of the
// energy: times the last weights.
template <int Chains, typename acc_t>
__device__ __forceinline__ void sweep_forward(const MlpEnergy<acc_t>& energy, const MlpMatrices<acc_t>& matrices,
                                              const MlpRows& rows, const MlpTile<acc_t>& tile) {
  constexpr int size = Word<acc_t>::size;
  const int hidden = static_cast<int>(energy.layers) - 1;
  Tile<acc_t> input = tile.rows(0);
  for (int layer = 0; layer < hidden; ++layer) {
    const bool last = layer == hidden - 1;
    const Tile<acc_t> values = tile.rows(rows.values[layer % 2]), slopes = tile.rows(rows.slopes[layer]);
    const int inputs = static_cast<int>(energy.widths[layer]), units = static_cast<int>(energy.widths[layer + 1]);
    const auto take = [&](int unit, int chain, const acc_t(&sums)[Chains]) {
#pragma unroll
      for (int j = 0; j < Chains; j += size) {
        Word<acc_t> word;
#pragma unroll
        for (int k = 0; k < size; ++k) word.at[k] = sums[j + k];
        slopes.word(unit, chain + j) = word;
      }
    };
    const auto finish = [&](int unit, int chain) {
      const acc_t bias = energy.biases[layer][unit], out = last ? energy.weights[hidden][unit] : acc_t(1);
      visit_activation(energy.activation, [&](auto activation) {
#pragma unroll 1
        for (int j = chain; j < chain + Chains; j += size) {
          Word<acc_t> word = slopes.word(unit, j), value;
#pragma unroll
          for (int k = 0; k < size; ++k) {
            const acc_t leak = static_cast<acc_t>(energy.slope);
            const auto found = activated<decltype(activation)::value, ActivationMath>(word.at[k] + bias, leak);
            value.at[k] = found.value;
            word.at[k] = found.slope * out;
          }
          if (!last) values.word(unit, j) = value;
          slopes.word(unit, j) = word;
        }
      });
    };
    multiply_tile<Chains>(matrices.forward[layer], units, inputs, input, tile.chains, take, finish);
    __syncthreads();
    input = values;
  }
}

template <int Chains, typename acc_t>
__device__ __forceinline__ void sweep_back(const MlpEnergy<acc_t>& energy, const MlpMatrices<acc_t>& matrices,
                                           const MlpRows& rows, const MlpTile<acc_t>& tile) {
  constexpr int size = Word<acc_t>::size;
  for (int layer = static_cast<int>(energy.layers) - 2; layer >= 0; --layer) {
    const int inputs = static_cast<int>(energy.widths[layer]), units = static_cast<int>(energy.widths[layer + 1]);
    const Tile<acc_t> into = tile.rows(layer > 0 ? rows.slopes[layer - 1] : rows.gradient);
    const auto take = [&](int row, int chain, const acc_t(&sums)[Chains]) {
#pragma unroll
      for (int j = 0; j < Chains; j += size) {
        Word<acc_t>& place = into.word(row, chain + j);
        Word<acc_t> word;
#pragma unroll
        for (int k = 0; k < size; ++k) word.at[k] = (layer > 0 ? place.at[k] : acc_t(1)) * sums[j + k];
        place = word;
      }
    };
    multiply_tile<Chains>(matrices.back[layer], inputs, units, tile.rows(rows.slopes[layer]), tile.chains, take,
                          [](int, int) {});
    __syncthreads();
  }
}

// A warp a chain.
template <typename acc_t>
__device__ __forceinline__ void tile_projection(const MlpTile<acc_t>& tile, int dims, const MlpRows& rows,
                                                acc_t max_norm) {
  const int lane = threadIdx.x % kWarpLanes;
  for (int chain = threadIdx.x / kWarpLanes; chain < tile.count; chain += blockDim.x / kWarpLanes) {
    acc_t largest = 0, sum = 0;
    for (int i = lane; i < dims; i += kWarpLanes) {
      largest = std::fmax(largest, std::fabs(tile.at(rows.gradient + i, chain)));
    }
    largest = most_of_lanes(largest, kWarpLanes);
    if (largest == 0) largest = 1;
    for (int i = lane; i < dims; i += kWarpLanes) {
      sum += square_of_ratio(tile.at(rows.gradient + i, chain), largest);
    }
    const acc_t factor = projection(largest, std::sqrt(total_of_lanes(sum, kWarpLanes)), max_norm);
    if (lane == 0) tile.at(rows.factors, chain) = factor;
  }
}

// Shared: the tile lies in shared memory, else in the workspace.
template <int Chains, bool Shared, typename acc_t>
__global__ void __launch_bounds__(kMlpThreads, 2)
    mlp_tile_kernel(const __grid_constant__ Chain<acc_t> chain, const __grid_constant__ MlpEnergy<acc_t> energy,
                    const __grid_constant__ MlpMatrices<acc_t> matrices, const __grid_constant__ MlpRows rows,
                    int chains, acc_t* workspace) {
  const int stride = tile_stride<acc_t>(chains), dims = static_cast<int>(chain.dims);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * chains, left = chain.chains - first;
  acc_t* numbers = Shared ? dynamic_shared<acc_t>() : workspace + static_cast<int64_t>(blockIdx.x) * rows.rows * stride;
  const MlpTile<acc_t> tile{numbers, first, left < chains ? static_cast<int>(left) : chains, chains, stride};
  // Every thread keeps to one chain of the tile; those behind the last stay at zero.
  const int own = threadIdx.x % chains, begin = threadIdx.x / chains, every = blockDim.x / chains;
  const bool there = own < tile.count;
  const Move<acc_t> move(chain, there ? first + own : first);
  NoiseStream stream(Noise{chain.state});
  for (int i = begin; i < dims; i += every) {
    tile.at(i, own) = there ? chain.x[(first + own) * dims + i] : acc_t(0);
    if (energy.layers == 1) tile.at(rows.gradient + i, own) = energy.weights[0][i];
  }
  __syncthreads();
#pragma unroll 1
  for (int64_t step = 0; step < chain.steps; ++step, ++stream.step) {
    tile_noise(tile, dims, rows.noise, stream);
    sweep_forward<Chains>(energy, matrices, rows, tile);
    sweep_back<Chains>(energy, matrices, rows, tile);
    if (energy.layers == 1) __syncthreads();
    if (move.projects()) {
      tile_projection(tile, dims, rows, move.max_norm);
      __syncthreads();
    }
    const acc_t factor = move.projects() && there ? tile.at(rows.factors, own) : acc_t(1);
    for (int i = begin; there && i < dims; i += every) {
      tile.at(i, own) = move(tile.at(i, own), factor * tile.at(rows.gradient + i, own), tile.at(rows.noise + i, own));
    }
    __syncthreads();
  }
  for (int i = begin; there && i < dims; i += every) {
    chain.out[(first + own) * dims + i] = tile.at(i, own);
  }
}

}  // namespace cgm::langevin
