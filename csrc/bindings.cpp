// The only pybind11 file: one m.def per entry point of the kernels, and build_info().
#include <ATen/Parallel.h>
#include <pybind11/pybind11.h>
#include <torch/csrc/utils/pybind.h>

#include "common/levels.h"
#include "coupling/coupling.h"
#include "coupling/masked.h"
#include "divergence/divergence.h"
#include "divergence/potential.h"
#include "divergence/runge_kutta_op.h"
#include "langevin/langevin.h"
#include "sliced_ot/sliced_ot.h"

#ifndef CGM_TORCH_VERSION
#define CGM_TORCH_VERSION ""
#endif
#ifndef CGM_CUDA_VERSION
#define CGM_CUDA_VERSION ""
#endif
#ifndef CGM_CUDA_ARCHITECTURES
#define CGM_CUDA_ARCHITECTURES ""
#endif
#ifndef CGM_SOURCE_DIR
#define CGM_SOURCE_DIR ""
#endif
#ifndef CGM_COMPILER
#define CGM_COMPILER __VERSION__
#endif

namespace py = pybind11;

namespace {

py::dict build_info() {
  py::dict info;
  info["torch"] = CGM_TORCH_VERSION;
  info["cuda"] = *CGM_CUDA_VERSION ? py::object(py::str(CGM_CUDA_VERSION)) : py::object(py::none());
  info["cuda_archs"] = CGM_CUDA_ARCHITECTURES;
  info["compiler"] = CGM_COMPILER;
  info["source"] = CGM_SOURCE_DIR;
  info["simd"] = cgm::cpu_level_name(cgm::cpu_level());
  info["simd_supported"] = cgm::cpu_level_name(cgm::cpu_level_supported());
  info["threads"] = at::get_num_threads();
  return info;
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.def("build_info", &build_info);
  m.def("set_cpu_level", [](int level) { cgm::set_cpu_level(static_cast<cgm::CpuLevel>(level)); });
  m.def("runge_kutta_tableau", &cgm::divergence::tableau);

  using Masked = cgm::coupling::MaskedNetwork;
  py::class_<Masked, c10::intrusive_ptr<Masked>>(m, "MaskedNetwork")
      .def(py::init<const at::Tensor&, at::Tensor, std::vector<int64_t>, int64_t, bool,
                    const std::vector<std::array<int64_t, 2>>&, std::vector<at::Tensor>>())
      .def("is_of", &Masked::is_of);

  const auto no_gil = py::call_guard<py::gil_scoped_release>();
  m.def("affine_coupling", &cgm::coupling::affine_coupling, no_gil);
  m.def("affine_coupling_stack", &cgm::coupling::affine_coupling_stack, no_gil);
  m.def("affine_event", &cgm::coupling::affine_event, no_gil);
  m.def("langevin_accept", &cgm::langevin::accept, no_gil);
  m.def("langevin_normal", &cgm::langevin::normal, no_gil);
  m.def("langevin_step", &cgm::langevin::step, no_gil);
  m.def("masked_mlp_affine", &cgm::coupling::masked_mlp_affine, no_gil);
  m.def("masked_mlp_inverse", &cgm::coupling::masked_mlp_inverse, no_gil);
  m.def("mlp_divergence", &cgm::divergence::mlp_divergence, no_gil);
  m.def("mlp_value", &cgm::divergence::mlp_value, no_gil);
  m.def("potential_divergence", &cgm::divergence::potential_divergence, no_gil);
  m.def("potential_flow", &cgm::divergence::potential_flow, no_gil);
  m.def("runge_kutta_error", &cgm::divergence::runge_kutta_error, no_gil);
  m.def("runge_kutta_update", &cgm::divergence::runge_kutta_update, no_gil);
  m.def("sliced_wasserstein", &cgm::sliced_ot::sliced_wasserstein, no_gil);
  m.def("wasserstein_1d", &cgm::sliced_ot::wasserstein_1d, no_gil);
}
