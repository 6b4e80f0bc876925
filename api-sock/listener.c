/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "api-sock/listener.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/base/fd.h"
#include "vmm/base/log.h"

/* Says whether a socket that is in the way is alive. */
static int explain_in_use(const struct sockaddr_un *addr, struct err *e)
{
	cleanup_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd >= 0 && connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) == 0)
		return err_set(e, EADDRINUSE,
			       "API socket '%s' is in use by a running process; choose another "
			       "path with --api-sock",
			       addr->sun_path);
	return err_set(e, EADDRINUSE,
		       "API socket '%s' exists, but nobody listens on it; remove it or choose "
		       "another path with --api-sock",
		       addr->sun_path);
}

static int bind_path(struct listener *l, const struct server_config *c, struct err *e)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	struct stat st;
	mode_t mask;
	int r;

	memcpy(addr.sun_path, l->path, sizeof(l->path));
	/* Nobody is let in before the owner is right. */
	mask = umask(0177);
	r = bind(l->fd, (struct sockaddr *)&addr, sizeof(addr));
	umask(mask);
	if (r < 0 && errno == EADDRINUSE)
		return explain_in_use(&addr, e);
	if (r < 0)
		return err_sys(e, "create API socket '%s'", l->path);
	l->bound = true;
	if (stat(l->path, &st) < 0)
		return err_sys(e, "stat API socket '%s'", l->path);
	l->dev = st.st_dev;
	l->ino = st.st_ino;
	if (c->chown && chown(l->path, c->uid, c->gid) < 0)
		return err_sys(e, "give API socket '%s' to %u:%u", l->path, c->uid, c->gid);
	if (c->mode && chmod(l->path, c->mode) < 0)
		return err_sys(e, "set the mode of API socket '%s'", l->path);
	if (listen(l->fd, SERVER_CONNECTIONS_MAX) < 0)
		return err_sys(e, "listen on API socket '%s'", l->path);
	return 0;
}

static int socket_option(int fd, int option)
{
	int value = -1;
	socklen_t len = sizeof(value);

	return getsockopt(fd, SOL_SOCKET, option, &value, &len) < 0 ? -1 : value;
}

static int inherit(struct listener *l, int fd, struct err *e)
{
	if (socket_option(fd, SO_DOMAIN) != AF_UNIX || socket_option(fd, SO_TYPE) != SOCK_STREAM ||
	    socket_option(fd, SO_ACCEPTCONN) != 1)
		return err_set(e, EINVAL, "API descriptor %d is not a listening Unix stream socket",
			       fd);
	if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 || fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
		return err_sys(e, "API descriptor %d", fd);
	l->fd = fd;
	return 0;
}

int listener_open(struct listener *l, const struct server_config *c, struct err *e)
{
	*l = (struct listener){.fd = -1};
	if (c->inherited)
		return inherit(l, c->fd, e);
	if (strlen(c->path) == 0 || strlen(c->path) >= sizeof(l->path))
		return err_set(e, ENAMETOOLONG, "API socket path '%s': 1..%zu bytes are possible",
			       c->path, sizeof(l->path) - 1);
	strcpy(l->path, c->path);
	l->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (l->fd < 0)
		return err_sys(e, "create API socket '%s'", l->path);
	return bind_path(l, c, e);
}

/* Somebody may have removed our file and another process bound the same path since. */
void listener_close(struct listener *l)
{
	struct stat st;

	if (l->bound &&
	    fstatat(AT_FDCWD, l->path, &st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) == 0 &&
	    st.st_dev == l->dev && st.st_ino == l->ino)
		unlinkat(AT_FDCWD, l->path, 0);
	l->bound = false;
	fd_close(&l->fd);
}

bool listener_admits(const struct server_config *c, int fd)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	if (c->allow_count == 0)
		return true;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
		return false;
	for (unsigned i = 0; i < c->allow_count; i++)
		if (c->allow[i].id == (c->allow[i].is_group ? peer.gid : peer.uid))
			return true;
	log_warn("API: user %u, group %u (process %d) is not allowed to connect", peer.uid,
		 peer.gid, peer.pid);
	return false;
}
