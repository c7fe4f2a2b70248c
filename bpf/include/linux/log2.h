/* The one function of <linux/log2.h> that bcc's map macros call, as a constant expression. */
#pragma once
#define _FILL_1(x) ((x) | ((x) >> 1))
#define _FILL_2(x) (_FILL_1(x) | (_FILL_1(x) >> 2))
#define _FILL_4(x) (_FILL_2(x) | (_FILL_2(x) >> 4))
#define _FILL_8(x) (_FILL_4(x) | (_FILL_4(x) >> 8))
#define _FILL_16(x) (_FILL_8(x) | (_FILL_8(x) >> 16))
#define roundup_pow_of_two(x) (_FILL_16((x) - 1) + 1)
