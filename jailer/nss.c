/* SPDX-License-Identifier: Apache-2.0 */
/*
 * capng_change_id() of libcap-ng, which spore-jailer does not use, would bring the user database of
 * glibc into the static program, and that one wants shared libraries when it runs. Here is all that
 * there is of it: the jailer takes numbers only.
 */
#include <grp.h>
#include <pwd.h>
#include <stddef.h>

struct passwd *getpwuid(uid_t uid)
{
	(void)uid;
	return NULL;
}

int initgroups(const char *user, gid_t group)
{
	(void)user;
	(void)group;
	return -1;
}
