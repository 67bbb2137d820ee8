/* core/banned.h - functions whose safe form exists; force-included into every source file. */
#pragma once

#include <alloca.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Some of them are macros when the C library checks its calls (_FORTIFY_SOURCE). */
#undef alloca
#undef sprintf
#undef vsprintf

#pragma GCC poison strcpy strcat sprintf vsprintf strtok atoi atol atof alloca
#pragma GCC poison gmtime localtime asctime ctime
