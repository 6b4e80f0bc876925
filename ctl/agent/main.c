/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spore-agent                  listens on vsock port 1077; as process 1 it is the guest's init too
 * spore-agent --unix PATH      listens there, behind a handshake as the monitor's: for tests
 */
#define _GNU_SOURCE
#include "ctl/agent/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

static void complain(const char *what)
{
	(void)!write(2, "spore-agent: ", 13);
	(void)!write(2, what, strlen(what));
	(void)!write(2, "\n", 1);
}

/* Children end by themselves: nobody waits for them. */
static _Noreturn void accept_all(int listener, void (*work)(int))
{
	signal(SIGCHLD, SIG_IGN);
	for (;;) {
		int sock = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		pid_t pid;

		if (sock < 0) {
			/* The device may have been reset; ENOMEM and its like pass. */
			if (errno != EINTR && errno != ECONNABORTED)
				usleep(10000);
			continue;
		}
		pid = fork();
		if (pid == 0) {
			close(listener);
			signal(SIGCHLD, SIG_DFL);
			work(sock);
			_exit(0);
		}
		close(sock);
	}
}

static int try_vsock(void)
{
	struct sockaddr_vm a = {
		.svm_family = AF_VSOCK, .svm_port = AGENT_PORT, .svm_cid = VMADDR_CID_ANY};
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -1;
	if (bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0 && listen(fd, 128) == 0)
		return fd;
	if (errno == EADDRINUSE) {
		complain("vsock port 1077 is in use: another agent runs");
		_exit(1);
	}
	close(fd);
	return -1;
}

_Noreturn void listen_vsock(void)
{
	int fd;

	/* The driver is a module in many kernels: whoever loads it may do so after us. */
	for (unsigned wait = 1000; (fd = try_vsock()) < 0; wait = wait < 500000 ? wait * 2 : wait)
		usleep(wait);
	accept_all(fd, serve);
}

/* "CONNECT <port>", answered as the monitor does. */
static void serve_unix(int sock)
{
	static const char ok[] = "OK 1024\n", want[] = "CONNECT 1077\n";
	char line[sizeof(want)] = "";

	for (unsigned i = 0; i < sizeof(want) - 1; i++)
		if (read(sock, line + i, 1) != 1 || line[i] != want[i])
			return;
	if (write(sock, ok, sizeof(ok) - 1) == sizeof(ok) - 1)
		serve(sock);
}

_Noreturn void listen_unix(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strncpy(a.sun_path, path, sizeof(a.sun_path) - 1);
	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, 128) < 0) {
		complain(strerror(errno));
		_exit(1);
	}
	accept_all(fd, serve_unix);
}

int main(int argc, char **argv, char **env)
{
	int fd;

	signal(SIGPIPE, SIG_IGN);
	if (getpid() == 1)
		init_main(argv, env);
	/* So that none of what is opened later becomes one of these. */
	while ((fd = open("/dev/null", O_RDWR)) >= 0 && fd < 3)
		;
	close(fd);
	if (argc == 3 && strcmp(argv[1], "--unix") == 0)
		listen_unix(argv[2]);
	if (argc > 1) {
		complain("usage: spore-agent [--unix PATH]");
		return 2;
	}
	listen_vsock();
}
