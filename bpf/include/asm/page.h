#pragma once
#include <linux/types.h>
#define PAGE_SIZE 4096
