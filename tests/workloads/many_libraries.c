/*
 * A program of many shared libraries, as a large server is: each opens a descriptor, called through two others.
 *
 * many_libraries FILE...: loads the files, says "ready", and for each line that it reads goes through all of them once;
 * it then says how many descriptors it opened, and keeps them open until its end. Compiled with -DLIBRARY it is such a
 * file. Each of n libraries is innermost in one stack, and in the middle of two.
 */
#define _GNU_SOURCE
#include <fcntl.h>

typedef int (*stage)(const void *rest, int left);

#ifdef LIBRARY

int go_on(const void *rest, int left)
{
	stage const *next = rest;

	if (!left)
		return open("/dev/null", O_RDONLY | O_CLOEXEC);
	return (*next)(next + 1, left - 1);
}

#else

#include <dlfcn.h>
#include <stdio.h>

#define MOST 4096

int main(int argc, char **argv)
{
	static stage stages[MOST];
	int count = argc - 1;

	for (int i = 0; i < count && i < MOST; i++) {
		void *library = dlopen(argv[i + 1], RTLD_NOW | RTLD_LOCAL);

		stages[i] = library ? (stage)dlsym(library, "go_on") : 0;
		if (!stages[i]) {
			fprintf(stderr, "%s\n", dlerror());
			return 1;
		}
	}
	setvbuf(stdout, 0, _IOLBF, 0);
	puts("ready");
	while (getchar() == '\n') {
		int opened = 0;

		for (int i = 0; i < count; i++) {
			stage way[3] = {stages[(i + 7) % count], stages[(i + 13) % count], 0};

			opened += stages[i](way, 2) >= 0;
		}
		printf("%d\n", opened);
	}
	return 0;
}

#endif
