// Rows of many points, fewer than there are threads: each cloud, or each part of a cloud, is a task of its own.
// Included by cpu.cpp after the levels.
#pragma once

namespace cgm::sliced_ot {

constexpr int64_t least_part = 1 << 14;  // points of a cloud that are worth a thread

struct Free {
  void operator()(char* block) const { std::free(block); }
};

inline std::unique_ptr<char, Free> allocate(size_t bytes) {
  std::unique_ptr<char, Free> block(static_cast<char*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64)));
  if (!block) throw std::bad_alloc();
  return block;
}

// One cloud sorted by several threads: the radix sort of cpu_radix.h with the counts of each part kept apart.
template <typename scalar_t>
class SplitSort {
 public:
  SplitSort(const scalar_t* points, int64_t n, const SortedCloud<scalar_t>& cloud, const Parallel& parallel)
      : points_(points), n_(n), cloud_(cloud), parallel_(parallel) {
    parts_ = std::max<int64_t>(1, std::min<int64_t>(parallel.threads, n / least_part));
    SortBuffers<scalar_t> measured;
    block_ = allocate(lay_out(nullptr, measured));
    lay_out(block_.get(), buffers_);
  }

  // False when the cloud holds a NaN or an infinity.
  bool run() {
    const Range<scalar_t> range = find_range();
    if (!range.finite) return false;
    const RadixPlan<scalar_t> quantised(range, n_);
    if (quantised.passes == 0 || !radix_passes(quantised) || !finish()) radix_passes(RadixPlan<scalar_t>());
    return true;
  }

 private:
  static constexpr int64_t counts_of_part = int64_t{1} << most_digit_bits;

  size_t lay_out(char* base, SortBuffers<scalar_t>& buffers) const {
    Arena arena(base);
    buffers.keys = arena.take<scalar_t>(n_);
    buffers.index = cloud_.index ? arena.take<uint32_t>(n_) : nullptr;
    buffers.digits = arena.take<uint16_t>(n_);
    buffers.counts = arena.take<uint32_t>(parts_ * counts_of_part);
    return arena.used();
  }

  int64_t begin_of(int64_t part) const { return n_ / parts_ * part + std::min(part, n_ % parts_); }
  int64_t size_of(int64_t part) const { return begin_of(part + 1) - begin_of(part); }

  template <typename Function>
  void for_each_part(const Function& function) const {
    parallel_(0, parts_, 1, [&](int64_t from, int64_t to) {
      for (int64_t part = from; part < to; ++part) function(part, begin_of(part), size_of(part));
    });
  }

  Range<scalar_t> find_range() const {
    std::vector<Range<scalar_t>> ranges(parts_);
    for_each_part([&](int64_t part, int64_t begin, int64_t size) {
      ranges[part] = CGM_AT_LEVEL(range_of<scalar_t>)(points_ + begin, size);
    });
    Range<scalar_t> range = ranges[0];
    for (const Range<scalar_t>& other : ranges) {
      range.least = std::min(range.least, other.least);
      range.greatest = std::max(range.greatest, other.greatest);
      range.finite = range.finite && other.finite;
    }
    return range;
  }

  // As places_from_counts, over the parts in order within each digit.
  uint32_t places_of_parts(int bits) const {
    uint32_t place = 0, greatest = 0;
    for (int64_t digit = 0; digit < int64_t{1} << bits; ++digit) {
      const uint32_t before = place;
      for (int64_t part = 0; part < parts_; ++part) {
        uint32_t& count = buffers_.counts[part * counts_of_part + digit];
        const uint32_t own = count;
        count = place;
        place += own;
      }
      greatest = std::max(greatest, place - before);
    }
    return greatest;
  }

  bool radix_passes(const RadixPlan<scalar_t>& plan) const {
    const scalar_t* from = points_;
    const uint32_t* from_index = nullptr;
    for (int pass = 0; pass < plan.passes; ++pass) {
      for_each_part([&](int64_t part, int64_t begin, int64_t size) {
        CGM_AT_LEVEL(count_digits<scalar_t>)
        (plan, pass, from + begin, size, buffers_.digits + begin, buffers_.counts + part * counts_of_part);
      });
      if (plan.crowded(pass, places_of_parts(plan.bits))) return false;
      // The passes alternate so that the last one writes the result; none is left out here.
      const bool into_result = (plan.passes - pass) % 2 == 1;
      scalar_t* const to = into_result ? cloud_.keys : buffers_.keys;
      uint32_t* const to_index = into_result ? cloud_.index : buffers_.index;
      for_each_part([&](int64_t part, int64_t begin, int64_t size) {
        uint32_t* const places = buffers_.counts + part * counts_of_part;
        const uint32_t* const own_index = from_index ? from_index + begin : nullptr;
        const auto first = static_cast<uint32_t>(begin);
        CGM_AT_LEVEL(scatter_points<scalar_t>)
        (from + begin, own_index, first, buffers_.digits + begin, size, places, to, to_index);
      });
      from = to;
      from_index = to_index;
    }
    return true;
  }

  // Puts right what shares a cell of the quantisation: inside the parts, then across their borders.
  bool finish() const {
    std::vector<char> sorted(parts_);
    for_each_part([&](int64_t part, int64_t begin, int64_t size) {
      uint32_t* const index = cloud_.index ? cloud_.index + begin : nullptr;
      sorted[part] = CGM_AT_LEVEL(insertion_sort_points<scalar_t>)(cloud_.keys + begin, index, size, 4 * size);
    });
    for (int64_t part = 0; part < parts_; ++part) {
      if (!sorted[part]) return false;
      const int64_t begin = begin_of(part), end = begin_of(part + 1);
      if (part > 0 && !CGM_AT_LEVEL(join_sorted_points<scalar_t>)(cloud_.keys, cloud_.index, begin, end, n_))
        return false;
    }
    return true;
  }

  const scalar_t* points_;
  int64_t n_;
  SortedCloud<scalar_t> cloud_;
  const Parallel& parallel_;
  int64_t parts_;
  std::unique_ptr<char, Free> block_;
  SortBuffers<scalar_t> buffers_;
};

// The few rows of a problem, all clouds held sorted at once.
template <typename scalar_t>
class SplitRows {
 public:
  SplitRows(const TransportRows<scalar_t>& problem, const Parallel& parallel)
      : problem_(problem), parallel_(parallel), finite_(2 * problem.rows) {
    block_ = allocate(lay_out(nullptr));
    lay_out(block_.get());
  }

  void run() {
    // Two tasks a row keep the threads busy, unless one cloud is much the larger.
    const bool alike = std::max(problem_.n, problem_.m) <= 2 * std::min(problem_.n, problem_.m);
    const bool long_enough = std::max(problem_.n, problem_.m) >= 4 * least_part;
    if (long_enough && (2 * problem_.rows < parallel_.threads || !alike))
      sort_parts();
    else
      sort_clouds();
    for (int64_t row = 0; row < problem_.rows; ++row) finish(row);
  }

 private:
  SortedCloud<scalar_t>& cloud(int64_t task) { return task % 2 == 0 ? clouds_x_[task / 2] : clouds_y_[task / 2]; }
  const scalar_t* points(int64_t task) const {
    return task % 2 == 0 ? problem_.x + task / 2 * problem_.x_stride : problem_.y + task / 2 * problem_.y_stride;
  }
  int64_t size(int64_t task) const { return task % 2 == 0 ? problem_.n : problem_.m; }

  size_t lay_out(char* base) {
    const Wanted<scalar_t> wanted(problem_);
    Arena arena(base);
    clouds_x_.clear(), clouds_y_.clear();
    for (int64_t row = 0; row < problem_.rows; ++row) {
      clouds_x_.push_back(arena.sorted_cloud<scalar_t>(1, problem_.n, wanted.x_index, wanted.weighted));
      clouds_y_.push_back(arena.sorted_cloud<scalar_t>(1, problem_.m, wanted.y_index, wanted.weighted));
    }
    return arena.used();
  }

  void sort_parts() {
    for (int64_t task = 0; task < 2 * problem_.rows; ++task)
      finite_[task] = SplitSort<scalar_t>(points(task), size(task), cloud(task), parallel_).run();
  }

  void sort_clouds() {
    parallel_(0, 2 * problem_.rows, 1, [&](int64_t begin, int64_t end) {
      const int64_t most = std::max(problem_.n, problem_.m);
      const auto block = allocate(sort_buffers(nullptr, most).second);
      const SortBuffers<scalar_t> buffers = sort_buffers(block.get(), most).first;
      for (int64_t task = begin; task < end; ++task) {
        bool finite;
        CGM_AT_LEVEL(sort_cloud<scalar_t>)(points(task), size(task), cloud(task), buffers, &finite);
        finite_[task] = finite;
      }
    });
  }

  static std::pair<SortBuffers<scalar_t>, size_t> sort_buffers(char* base, int64_t n) {
    Arena arena(base);
    const SortBuffers<scalar_t> buffers = arena.sort_buffers<scalar_t>(1, n, true);
    return {buffers, arena.used()};
  }

  void finish(int64_t row) {
    if (!finite_[2 * row] || !finite_[2 * row + 1]) return CGM_AT_LEVEL(spoil_row<scalar_t>)(problem_, row);
    const SortedCloud<scalar_t>&x = clouds_x_[row], &y = clouds_y_[row];
    if (x.ends) CGM_AT_LEVEL(accumulate_row_weights<scalar_t>)(problem_, row, x, y);
    const RowChunks chunks(problem_);
    std::vector<double> parts(chunks.total());
    parallel_(0, chunks.total(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t chunk = begin; chunk < end; ++chunk)
        parts[chunk] = CGM_AT_LEVEL(transport_chunk<scalar_t>)(problem_, row, x, y, chunk);
    });
    double cost = 0;
    for (int64_t chunk = 0; chunk < chunks.of_x; ++chunk) cost += parts[chunk];
    problem_.cost[row] = cost;
  }

  const TransportRows<scalar_t>& problem_;
  const Parallel& parallel_;
  std::vector<char> finite_;
  std::vector<SortedCloud<scalar_t>> clouds_x_, clouds_y_;
  std::unique_ptr<char, Free> block_;
};

}  // namespace cgm::sliced_ot
