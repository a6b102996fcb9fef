#pragma once
#include "cub/emulated_device.h"
