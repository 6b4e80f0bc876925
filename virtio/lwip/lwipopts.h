/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lwIP as the metadata service needs it (virtio/mmdsnet.h): TCP over IPv4 on one thread, out of
 * static pools, and nothing else. Ethernet, ARP and the timer's rhythm are mmdsnet.c's. The names are
 * lwIP's, opt.h there explains them.
 */
#pragma once

#define NO_SYS		     1
#define SYS_LIGHTWEIGHT_PROT 0
#define LWIP_TIMERS	     0
#define LWIP_NETCONN	     0
#define LWIP_SOCKET	     0
#define LWIP_STATS	     0
#define LWIP_ARP	     0
#define LWIP_ETHERNET	     0
#define LWIP_ICMP	     0
#define LWIP_RAW	     0
#define LWIP_UDP	     0
#define LWIP_NETIF_LOOPBACK  0
#define LWIP_TCP	     1
#define IP_REASSEMBLY	     0
#define IP_FRAG		     0
#define IP_OPTIONS_ALLOWED   0
#define IP_DEFAULT_TTL	     1 /* what leaves the guest again goes nowhere */

/* A pool too small loses segments, which are sent again; it never fails a connection for good. */
#define MEM_ALIGNMENT		       8
#define MEM_SIZE		       32768 /* headers of segments in flight */
#define MEMP_NUM_TCP_PCB	       30
#define MEMP_NUM_TCP_PCB_LISTEN	       16 /* one for each interface */
#define MEMP_NUM_TCP_SEG	       256
#define MEMP_NUM_PBUF		       256
#define PBUF_POOL_SIZE		       1
#define PBUF_POOL_BUFSIZE	       64
#define LWIP_DISABLE_TCP_SANITY_CHECKS 1 /* received bytes are not in that pool */

/* With no queue of segments out of order, a received buffer is never kept: mmdsnet.c relies on it. */
#define TCP_QUEUE_OOSEQ			      0
#define TCP_MSS				      1460
#define TCP_WND				      (4 * TCP_MSS)
#define TCP_SND_BUF			      (8 * TCP_MSS)
#define TCP_SND_QUEUELEN		      32
#define TCP_MSL				      1000 /* ms: nothing stays on this network for longer */
#define TCP_MAXRTX			      4 /* a guest that is silent for 45 s has gone away */
#define TCP_SYNMAXRTX			      2
#define TCP_OVERSIZE			      0
#define LWIP_WND_SCALE			      0
#define LWIP_TCP_SACK_OUT		      0
#define LWIP_TCP_TIMESTAMPS		      0
#define LWIP_CALLBACK_API		      1
#define LWIP_DONT_PROVIDE_BYTEORDER_FUNCTIONS 1

/* All interfaces have the same address: a listener for each, answers go back where they came from. */
#define SO_REUSE			   1
#define LWIP_HOOK_IP4_ROUTE_SRC(src, dest) ip_current_input_netif()

/* A guest leaves checksums to the device; between its memory and ours nothing goes wrong. */
#define CHECKSUM_CHECK_IP  0
#define CHECKSUM_CHECK_TCP 0
