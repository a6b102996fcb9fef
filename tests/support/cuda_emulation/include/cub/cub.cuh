#pragma once
#include "cub/emulated_block.h"
#include "cub/emulated_device.h"
