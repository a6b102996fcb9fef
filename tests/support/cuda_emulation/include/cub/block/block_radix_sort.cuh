#pragma once
#include "cub/emulated_block.h"
