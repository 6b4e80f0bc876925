/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "api-sock/body.h"
#include "api-sock/schema.h"
#include "tests/lib/driver.h"
#include "tests/lib/scratch.h"
#include "virtio/net.h"
#include "vmm/config.h"

static struct scratch s;
static struct config c;
static struct net_interface n;
static struct err e;
static int listener;
static const char *socket_path;

/* Somebody who accepts connections, in place of passt. */
static void start(void)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};

	scratch_init(&s);
	config_init(&c);
	net_interface_init(&n);
	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s", scratch_path(&s, "passt"));
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	cr_assert_eq(bind(listener, (struct sockaddr *)&sun, sizeof(sun)), 0);
	cr_assert_eq(listen(listener, 8), 0);
	socket_path = strdup(sun.sun_path);
}

static void finish(void)
{
	net_interface_finish(&n);
	config_finish(&c);
	close(listener);
	unlink(socket_path);
	free((void *)(uintptr_t)socket_path);
	scratch_finish(&s);
}

TestSuite(netconfig, .init = start, .fini = finish, .timeout = 30);

/* The interface in JSON, with "PASST" for the socket's path. */
static int read_net(const char *fmt)
{
	char text[2048];
	json_t *json;
	int r;

	snprintf(text, sizeof(text), fmt, socket_path);
	json = json_loads(text, 0, NULL);
	cr_assert(json, "%s", text);
	net_interface_finish(&n);
	r = body_read(&schema_net, json, false, &n, &e);
	json_decref(json);
	return r;
}

static int set_net(const char *fmt)
{
	int r = read_net(fmt);

	return r < 0 ? r : config_set_net(&c, &n, &e);
}

static void refused(const char *fmt, const char *part)
{
	unsigned before = c.net_count;

	cr_assert_lt(set_net(fmt), 0, "%s", fmt);
	cr_assert(strstr(e.msg, part), "'%s' is not in '%s'", part, e.msg);
	cr_assert_eq(c.net_count, before);
}

Test(netconfig, everything_survives_printing)
{
	static const char text[] =
		"{\"iface_id\": \"eth0\", \"passt_socket\": \"%s\", \"guest_mac\": "
		"\"06:00:00:00:00:01\", \"mtu\": 1400,"
		" \"rx_rate_limiter\": {\"bandwidth\": {\"size\": 5, \"refill_time\": 6, "
		"\"one_time_burst\": 7}},"
		" \"policy\": {\"addresses\": [\"10.0.0.2\", \"fd00::2\"], \"egress_default\": "
		"\"Allow\", \"ingress\": ["
		"   {\"action\": \"Allow\", \"protocol\": \"Tcp\", \"address\": \"10.0.0.0/8\", "
		"\"ports\": \"80-90\"},"
		"   {\"action\": \"Deny\"}]},"
		" \"rewrite\": {\"addresses\": [{\"guest\": \"10.0.0.2\", \"host\": "
		"\"172.16.0.2\"}], \"host_mac\": \"06:00:00:00:01:01\"}}";
	json_t *once, *twice;

	cr_assert_eq(set_net(text), 0, "%s", e.msg);
	cr_assert_eq(c.net_count, 1);
	cr_assert_geq(c.net[0].fd[0], 0);
	cr_assert_eq(c.net[0].limits.rx.bandwidth.burst, 7);
	cr_assert_eq(c.net[0].policy->ingress.count, 2);
	once = body_print(&schema_net, &c.net[0]);
	cr_assert(json_is_null(json_object_get(once, "tx_rate_limiter")));
	cr_assert(json_is_null(json_object_get(once, "host_dev_name")));
	net_interface_finish(&n);
	cr_assert_eq(body_read(&schema_net, once, false, &n, &e), 0, "%s", e.msg);
	twice = body_print(&schema_net, &n);
	cr_assert(json_equal(once, twice));
	json_decref(once);
	json_decref(twice);
}

Test(netconfig, an_absent_mtu_is_printed_as_null)
{
	json_t *json;

	cr_assert_eq(set_net("{\"iface_id\": \"a\", \"passt_socket\": \"%s\"}"), 0);
	json = body_print(&schema_net, &c.net[0]);
	cr_assert(json_is_null(json_object_get(json, "mtu")));
	cr_assert(json_is_null(json_object_get(json, "policy")));
	cr_assert_null(json_object_get(json, "tap_fd"));
	json_decref(json);
}

Test(netconfig, refusals_name_the_field)
{
	refused("{\"iface_id\": \"a\"}", "host_dev_name: missing");
	refused("{\"iface_id\": \"a\", \"host_dev_name\": \"tap0\", \"passt_socket\": \"%s\"}",
		"not together");
	refused("{\"iface_id\": \"a\", \"host_dev_name\": \"no-such-tap\"}", "no-such-tap");
	refused("{\"iface_id\": \"a\", \"passt_socket\": \"/none\"}", "passt_socket");
	refused("{\"iface_id\": \"a\", \"tap_fd\": 0}", "tap_fd");
	refused("{\"iface_id\": \"a\", \"passt_socket\": \"%s\", \"queue_pairs\": 2}",
		"queue_pairs");
	refused("{\"iface_id\": \"a\", \"passt_socket\": \"%s\", \"guest_mac\": \"x\"}",
		"guest_mac");
	refused("{\"iface_id\": \"a\", \"passt_socket\": \"%s\", \"guest_mac\": "
		"\"06-00-00-00-00-01\"}",
		"guest_mac");
	refused("{\"iface_id\": \"a\", \"passt_socket\": \"%s\", \"guest_mac\": "
		"\"06:00:00:00:00:0g\"}",
		"guest_mac");
	refused("{\"iface_id\": \"a\", \"passt_socket\": \"%s\", \"guest_mac\": "
		"\"01:00:00:00:00:00\"}",
		"multicast");
	refused("{\"iface_id\": \"a\", \"passt_socket\": \"%s\", \"policy\": {\"egress\": "
		"[{\"action\": \"Allow\"}, {\"action\": \"Allow\", \"address\": \"10\"}]}}",
		"policy: egress: item 1: address");
	refused("{\"iface_id\": \"a\", \"passt_socket\": \"%s\", \"policy\": {\"egress\": "
		"[{\"protocol\": \"Tcp\"}]}}",
		"action");
	refused("{\"iface_id\": \"a\", \"passt_socket\": \"%s\", \"policy\": {\"ingress\": "
		"[{\"action\": \"Allow\", \"ports\": \"1\", \"protocol\": \"Icmp\"}]}}",
		"ports");
	refused("{\"iface_id\": \"a\", \"passt_socket\": \"%s\", \"policy\": {\"addresses\": "
		"[\"10.0.0.0/8\"]}}",
		"addresses");
	refused("{\"iface_id\": \"a\", \"passt_socket\": \"%s\", \"policy\": {\"addresses\": [5]}}",
		"addresses");
	refused("{\"iface_id\": \"a\", \"passt_socket\": \"%s\", \"policy\": {\"addresses\": "
		"\"10.0.0.2\"}}",
		"an array");
	refused("{\"iface_id\": \"a\", \"passt_socket\": \"%s\", \"policy\": []}", "policy");
	refused("{\"iface_id\": \"a\", \"passt_socket\": \"%s\", \"rewrite\": {\"host_mac\": "
		"\"06:00:00:00:00:01\"}}",
		"needs guest_mac");
	refused("{\"iface_id\": \"a\", \"passt_socket\": \"%s\", \"rewrite\": {\"addresses\": "
		"[{\"guest\": \"10.0.0.2\"}]}}",
		"host");
	refused("{\"iface_id\": \"a\", \"passt_socket\": \"%s\", \"rewrite\": {\"addresses\": "
		"[{\"guest\": \"10.0.0.2\", \"host\": \"10.0.0.2\"}]}}",
		"twice");
	refused("{\"iface_id\": \"a\", \"passt_socket\": \"%s\", \"rx_rate_limiter\": {\"ops\": "
		"{\"size\": 1}}}",
		"refill_time");
}

Test(netconfig, the_same_id_replaces_and_the_same_socket_stays_open)
{
	int fd;

	cr_assert_eq(set_net("{\"iface_id\": \"a\", \"passt_socket\": \"%s\"}"), 0);
	fd = c.net[0].fd[0];
	cr_assert_eq(set_net("{\"iface_id\": \"a\", \"passt_socket\": \"%s\", \"mtu\": 1300}"), 0);
	cr_assert_eq(c.net_count, 1);
	cr_assert_eq(c.net[0].fd[0], fd);
	cr_assert_eq(c.net[0].mtu, 1300);
	cr_assert_eq(set_net("{\"iface_id\": \"b\", \"passt_socket\": \"%s\"}"), 0);
	cr_assert_eq(c.net_count, 2);
	cr_assert_eq(config_find_net(&c, "b"), &c.net[1]);
	cr_assert_null(config_find_net(&c, "c"));
}

Test(netconfig, macs_are_unique)
{
	cr_assert_eq(set_net("{\"iface_id\": \"a\", \"passt_socket\": \"%s\", \"guest_mac\": "
			     "\"06:00:00:00:00:AB\"}"),
		     0);
	refused("{\"iface_id\": \"b\", \"passt_socket\": \"%s\", \"guest_mac\": "
		"\"06:00:00:00:00:ab\"}",
		"The MAC address is already in use");
	cr_assert_eq(set_net("{\"iface_id\": \"a\", \"passt_socket\": \"%s\", \"guest_mac\": "
			     "\"06:00:00:00:00:ab\"}"),
		     0);
}

Test(netconfig, no_more_interfaces_than_there_is_room_for)
{
	char text[64];

	for (unsigned i = 0; i < NETCONFIG_MAX; i++) {
		snprintf(text, sizeof(text), "{\"iface_id\": \"n%u\", \"passt_socket\": \"%%s\"}",
			 i);
		cr_assert_eq(set_net(text), 0);
		close(accept(listener, NULL, NULL));
	}
	refused("{\"iface_id\": \"more\", \"passt_socket\": \"%s\"}", "already");
}

Test(netconfig, the_device_has_its_own_descriptor_and_what_was_configured)
{
	struct virtio_device *d;
	struct driver g;

	cr_assert_eq(set_net("{\"iface_id\": \"a\", \"passt_socket\": \"%s\", \"guest_mac\": "
			     "\"06:00:00:00:00:01\", \"mtu\": 1300, \"policy\": {}}"),
		     0);
	driver_init(&g);
	d = net_interface_create(&c.net[0], &g.env, &e);
	cr_assert(d, "%s", e.msg);
	driver_attach(&g, d);
	cr_assert_eq(driver_offered(&g) & (NET_F_MAC | NET_F_MTU), NET_F_MAC | NET_F_MTU);
	cr_assert_eq(driver_read(&g, 0x108) >> 16, 1300);
	cr_assert(net_guard(d)->policy);
	driver_finish(&g);
	cr_assert_geq(fcntl(c.net[0].fd[0], F_GETFD), 0, "the configuration's is still open");
}

static struct net_update read_update(const char *text)
{
	json_t *json = json_loads(text, 0, NULL);
	struct net_update u;

	net_update_init(&u, &c.net[0]);
	cr_assert(json);
	cr_assert_eq(body_read(&schema_net_update, json, false, &u, &e), 0, "%s", e.msg);
	json_decref(json);
	return u;
}

Test(netconfig, an_update_changes_what_it_names_and_nothing_when_it_is_wrong)
{
	struct virtio_device *d;
	struct net_update u;
	struct driver g;

	cr_assert_eq(set_net("{\"iface_id\": \"a\", \"passt_socket\": \"%s\","
			     " \"tx_rate_limiter\": {\"ops\": {\"size\": 1, \"refill_time\": 2}, "
			     "\"bandwidth\": {\"size\": 3, \"refill_time\": 4, \"one_time_burst\": "
			     "5}}}"),
		     0);
	driver_init(&g);
	d = net_interface_create(&c.net[0], &g.env, &e);
	driver_attach(&g, d);
	u = read_update("{\"iface_id\": \"a\", \"tx_rate_limiter\": {\"bandwidth\": {\"size\": 30, "
			"\"refill_time\": 40}},"
			" \"policy\": {\"egress_default\": \"Allow\"}}");
	cr_assert_eq(net_interface_update(&c.net[0], d, &u, &e), 0, "%s", e.msg);
	net_update_finish(&u);
	cr_assert_eq(c.net[0].limits.tx.ops.size, 1, "merged");
	cr_assert_eq(c.net[0].limits.tx.bandwidth.size, 30);
	cr_assert_eq(c.net[0].limits.tx.bandwidth.burst, 0, "a bucket is replaced as a whole");
	cr_assert(net_guard(d)->policy);
	cr_assert(c.net[0].policy->egress_allow);
	u = read_update("{\"iface_id\": \"a\", \"tx_rate_limiter\": {\"ops\": {\"size\": 9, "
			"\"refill_time\": 9}},"
			" \"policy\": {\"addresses\": [\"x\"]}}");
	cr_assert_lt(net_interface_update(&c.net[0], d, &u, &e), 0);
	net_update_finish(&u);
	cr_assert_eq(c.net[0].limits.tx.ops.size, 1);
	cr_assert(c.net[0].policy->egress_allow);
	u = read_update("{\"iface_id\": \"a\", \"rewrite\": {\"addresses\": [{\"guest\": "
			"\"10.0.0.2\", \"host\": \"10.1.0.2\"}]}}");
	cr_assert_eq(net_interface_update(&c.net[0], d, &u, &e), 0);
	net_update_finish(&u);
	cr_assert(net_guard(d)->rewrite);
	cr_assert(net_guard(d)->policy, "stays");
	u = read_update("{\"iface_id\": \"a\", \"host_dev_name\": \"tap0\", \"policy\": {}}");
	cr_assert_eq(net_interface_update(&c.net[0], d, &u, &e), -EINVAL, "no placeholder");
	net_update_finish(&u);
	cr_assert(c.net[0].policy->egress_allow, "nothing has changed");
	driver_finish(&g);
}
