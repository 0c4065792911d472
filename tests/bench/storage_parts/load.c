/* usage: load DIRECTORY MIB COUNT KIND...
 * Does each kind of work in DIRECTORY and prints its name and seconds: files of MIB, COUNT of what is
 * counted. Data goes past the own page cache (O_DIRECT) where it can, so that a disk is asked for it; kinds
 * named *-cached go through it, and need no right to write. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 4096
#define CHUNK (1 << 20)
#define SIDE_BY_SIDE 8

static long mib, count;
static char *buffer;

static void fail(const char *what)
{
	fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
	exit(1);
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static int direct(const char *name, int flags)
{
	int fd = open(name, flags | O_DIRECT, 0644);
	if (fd < 0 && errno == EINVAL)
		fd = open(name, flags, 0644);
	if (fd < 0)
		fail(name);
	return fd;
}

static void through(int fd, int writes, size_t piece, off_t at)
{
	ssize_t moved = writes ? pwrite(fd, buffer, piece, at) : pread(fd, buffer, piece, at);
	if (moved != (ssize_t)piece)
		fail("short");
}

static void sequential(int fd, int writes)
{
	for (long n = 0; n < mib; n++)
		through(fd, writes, CHUNK, (off_t)n * CHUNK);
}

/* Where one of the file's blocks begins, and the seed of the next one. */
static off_t some_block(unsigned *seed)
{
	*seed = *seed * 1664525u + 1013904223u;
	return (off_t)((*seed >> 8) % (mib * (CHUNK / BLOCK))) * BLOCK;
}

static void anywhere(int fd, int writes, long times, unsigned seed)
{
	for (long n = 0; n < times; n++)
		through(fd, writes, BLOCK, some_block(&seed));
}

static void side_by_side(int fd, int writes)
{
	for (int n = 0; n < SIDE_BY_SIDE; n++)
		if (fork() == 0) {
			anywhere(fd, writes, count / SIDE_BY_SIDE, 7 * n + 1);
			exit(0);
		}
	int status, failed = 0;
	while (wait(&status) > 0)
		failed |= status;
	if (failed)
		fail("a child");
}

/* One file in ten is in a directory of its own. */
static void name_of(char *name, long n) { sprintf(name, "tree/d%ld/f%ld", n / 10, n); }

static void small_files(void)
{
	char name[64];
	mkdir("tree", 0755);
	for (long n = 0; n < count; n++) {
		sprintf(name, "tree/d%ld", n / 10);
		if (n % 10 == 0 && mkdir(name, 0755) && errno != EEXIST)
			fail(name);
		name_of(name, n);
		int fd = open(name, O_CREAT | O_TRUNC | O_WRONLY, 0644);
		if (fd < 0 || write(fd, buffer, 1000) != 1000 || close(fd))
			fail(name);
	}
}

static int readable(const char *name)
{
	int fd = open(name, O_RDONLY);
	if (fd < 0)
		fail(name);
	return fd;
}

static void read_small_files(void)
{
	char name[64];
	for (long n = 0; n < count; n++) {
		name_of(name, n);
		int fd = readable(name);
		if (read(fd, buffer, CHUNK) != 1000 || close(fd))
			fail(name);
	}
}

/* One byte of pages anywhere in the mapped file, as a program's code is read. */
static void touch_pages(void)
{
	int fd = readable("data");
	volatile char *data = mmap(NULL, mib * CHUNK, PROT_READ, MAP_SHARED, fd, 0);
	unsigned seed = 1;
	if (data == MAP_FAILED)
		fail("mmap");
	for (long n = 0; n < count; n++)
		(void)data[some_block(&seed)];
	close(fd);
}

static void walk(void)
{
	char name[64];
	struct stat about;
	for (long n = 0; n < count; n++) {
		name_of(name, n);
		if (lstat(name, &about))
			fail(name);
	}
}

static void stream(int writes)
{
	int fd = writes ? open("streamed", O_CREAT | O_TRUNC | O_WRONLY, 0644) : readable("streamed");
	if (fd < 0)
		fail("streamed");
	sequential(fd, writes);
	if (writes && fsync(fd))
		fail("fsync");
	close(fd);
}

/* What this kernel remembers of files. */
static void drop(void)
{
	sync();
	int fd = open("/proc/sys/vm/drop_caches", O_WRONLY);
	if (fd < 0 || write(fd, "3", 1) != 1)
		fail("drop_caches");
	close(fd);
}

static void work(const char *kind)
{
	if (!strcmp(kind, "drop"))
		return drop();
	if (!strcmp(kind, "small-files"))
		return small_files();
	if (!strcmp(kind, "walk"))
		return walk();
	if (!strcmp(kind, "files-read"))
		return read_small_files();
	if (!strcmp(kind, "map-read"))
		return touch_pages();
	if (!strncmp(kind, "stream-", 7))
		return stream(!strcmp(kind, "stream-write"));
	int writes = strstr(kind, "write") != NULL;
	int fd = strstr(kind, "-cached") ? readable("data") : direct("data", O_CREAT | O_RDWR);
	if (!strncmp(kind, "seq", 3))
		sequential(fd, writes);
	else if (!strncmp(kind, "rand", 4))
		anywhere(fd, writes, count, 1);
	else if (!strncmp(kind, "many", 4))
		side_by_side(fd, writes);
	else if (!strcmp(kind, "flush"))
		for (long n = 0; n < count / 8; n++) {
			anywhere(fd, 1, 1, n);
			if (fdatasync(fd))
				fail("fdatasync");
		}
	else
		fail(kind);
	if (writes && fdatasync(fd))
		fail("fdatasync");
	close(fd);
}

int main(int argc, char **argv)
{
	if (argc < 5 || chdir(argv[1]))
		fail("usage, or its directory");
	mib = atol(argv[2]);
	count = atol(argv[3]);
	if (posix_memalign((void **)&buffer, BLOCK, CHUNK))
		fail("memory");
	memset(buffer, 'x', CHUNK);
	for (int n = 4; n < argc; n++) {
		double started = now();
		work(argv[n]);
		printf("%s %.6f\n", argv[n], now() - started);
		fflush(stdout);
	}
	return 0;
}
