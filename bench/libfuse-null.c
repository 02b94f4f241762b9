// SPDX-License-Identifier: MIT
// The rival of our file server: a libfuse3 low-level, single-threaded server of one constant file
// `ctl`, in the root and as `procs/1/ctl`, with the least that a control file needs: no caching,
// direct I/O. Everything unimplemented is answered ENOSYS by libfuse, after which the kernel stops
// asking (flush).
// Usage: libfuse-null MOUNTPOINT BYTES     foreground, until unmounted or a signal.
#define FUSE_USE_VERSION 312
#include <errno.h>
#include <fuse_lowlevel.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { kRoot = FUSE_ROOT_ID, kFile, kProcs, kProcess };

static const struct {
  fuse_ino_t parent;
  const char* name;
  fuse_ino_t ino;
} kNames[] = {{kRoot, "ctl", kFile},
              {kRoot, "procs", kProcs},
              {kProcs, "1", kProcess},
              {kProcess, "ctl", kFile}};

static char* content;
static size_t content_size;

static struct stat attributes_of(fuse_ino_t ino) {
  const struct stat dir = {.st_ino = ino, .st_mode = S_IFDIR | 0755, .st_nlink = 2};
  const struct stat file = {
      .st_ino = ino, .st_mode = S_IFREG | 0444, .st_nlink = 1, .st_size = (off_t)content_size};
  return ino == kFile ? file : dir;
}

static void on_lookup(fuse_req_t request, fuse_ino_t parent, const char* name) {
  for (size_t i = 0; i < sizeof kNames / sizeof kNames[0]; i++) {
    if (kNames[i].parent != parent || strcmp(kNames[i].name, name) != 0) continue;
    const fuse_ino_t ino = kNames[i].ino;
    const struct fuse_entry_param entry = {.ino = ino, .attr = attributes_of(ino)};
    fuse_reply_entry(request, &entry);
    return;
  }
  fuse_reply_err(request, ENOENT);
}

static void on_getattr(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info* file) {
  (void)file;
  const struct stat attributes = attributes_of(ino);
  fuse_reply_attr(request, &attributes, 0.0);
}

static void on_open(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info* file) {
  if (ino != kFile) {
    fuse_reply_err(request, EISDIR);
    return;
  }
  file->direct_io = 1;
  fuse_reply_open(request, file);
}

static void on_read(fuse_req_t request, fuse_ino_t ino, size_t size, off_t offset,
                    struct fuse_file_info* file) {
  (void)ino, (void)file;
  const size_t start = (size_t)offset < content_size ? (size_t)offset : content_size;
  const size_t left = content_size - start;
  fuse_reply_buf(request, content + start, size < left ? size : left);
}

static const struct fuse_lowlevel_ops kOperations = {
    .lookup = on_lookup, .getattr = on_getattr, .open = on_open, .read = on_read};

static int serve(const char* mountpoint) {
  char* argv[] = {"libfuse-null", NULL};
  struct fuse_args args = FUSE_ARGS_INIT(1, argv);
  struct fuse_session* session = fuse_session_new(&args, &kOperations, sizeof kOperations, NULL);
  if (!session) return 1;
  int status = 1;
  if (fuse_set_signal_handlers(session) == 0) {
    if (fuse_session_mount(session, mountpoint) == 0) {
      puts("ready");
      fflush(stdout);
      status = fuse_session_loop(session) < 0;
      fuse_session_unmount(session);
    }
    fuse_remove_signal_handlers(session);
  }
  fuse_session_destroy(session);
  return status;
}

int main(int argc, char** argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: libfuse-null MOUNTPOINT BYTES\n");
    return 2;
  }
  content_size = strtoul(argv[2], NULL, 10);
  content = malloc(content_size + 1);
  if (!content) return 1;
  memset(content, 'x', content_size);
  return serve(argv[1]);
}
