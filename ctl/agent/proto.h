/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What sporectl and the guest's agent say to each other; docs/agent.md is the specification.
 *
 * A connection carries one piece of work. Both sides begin with HELLO, the host sends its request at
 * once behind it. Numbers are little-endian, strings end with a NUL.
 */
#pragma once

#define AGENT_PORT	 1077u	     /* the agent listens on it */
#define AGENT_HOST_PORT	 1078u	     /* on the host: process 1 tells it the status of spore.run= */
#define AGENT_MAGIC	 0x41525053u /* "SPRA" */
#define AGENT_VERSION	 1u
#define AGENT_HEADER	 8u	/* u32 length of what follows, u8 type, three zeros */
#define AGENT_FRAME_MAX	 65536u /* bytes behind the header */
#define AGENT_STDIN_ROOM 65536u /* bytes of stdin that may be on their way unacknowledged */
#define AGENT_PATH_MAX	 4096u	/* a path, with its NUL */
#define AGENT_DEPTH_MAX	 100u	/* directories inside each other */

enum agent_frame {
	/* From both. */
	AGENT_HELLO = 0x01, /* u32 magic, u16 version, u16 zero */
	AGENT_ENTRY = 0x02, /* u8 kind, u32 mode, u64 mtime (ns), u64 size, path, link's target */
	AGENT_DATA = 0x03,  /* bytes of the file; none: it is complete */
	AGENT_DONE = 0x04,  /* u32: special files that were left out */
	AGENT_ERROR = 0x05, /* u32 errno of Linux, what was tried */

	/* From the host. */
	AGENT_PING = 0x10,   /* up to 64 bytes */
	AGENT_EXEC = 0x11,   /* u32 flags, u32 uid, u32 gid, u16 rows, u16 columns, directory,
				  u32 count, arguments, u32 count, environment */
	AGENT_STDIN = 0x12,  /* bytes; none: end of file */
	AGENT_WINDOW = 0x13, /* u16 rows, u16 columns */
	AGENT_SIGNAL = 0x14, /* u32 number, for the process group */
	AGENT_PUT = 0x15,    /* path, name if the path is a directory; then ENTRY, DATA, DONE */
	AGENT_GET = 0x16,    /* path */
	AGENT_IDENTITY =
		0x17, /* u64 time (ns since 1970; 0: leave it), host name, bytes of entropy */

	AGENT_SHUTDOWN = 0x18, /* as by Ctrl-Alt-Del */

	/* From the agent. */
	AGENT_PONG = 0x80,    /* the bytes of PING */
	AGENT_STARTED = 0x81, /* u32 process number */
	AGENT_STDOUT = 0x82,  /* bytes */
	AGENT_STDERR = 0x83,  /* bytes */
	AGENT_TAKEN = 0x84,   /* u32: so many bytes of stdin have reached the command */
	AGENT_EXITED = 0x85,  /* u8 1: by a signal; u8 status or signal */
};

enum agent_exec {
	AGENT_EXEC_TTY = 1 << 0,    /* a terminal; its output comes as STDOUT */
	AGENT_EXEC_STDIN = 1 << 1,  /* STDIN will come; else it is /dev/null */
	AGENT_EXEC_DETACH = 1 << 2, /* goes on by itself; STARTED is the last frame */
};
#define AGENT_EXEC_FLAGS 7u

enum agent_kind {
	AGENT_FILE = 1,
	AGENT_DIRECTORY = 2,
	AGENT_SYMLINK = 3,
};
