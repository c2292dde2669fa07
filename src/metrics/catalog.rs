//! Every metric there is: name, labels and help in one place.

use super::family::Spec;

/// Statics of [`Spec`] by their names, and all of them as `ALL`.
macro_rules! catalog {
    ($($name:ident = $kind:ident($text:literal, [$($label:literal),*], $help:literal);)*) => {
        $(pub(super) static $name: Spec = Spec::$kind(concat!("trunkline_", $text), &[$($label),*], $help);)*
        /// All of them.
        pub(super) static ALL: &[&Spec] = &[$(&$name),*];
    };
}
pub(super) use catalog;

catalog! {
    BUILD_INFO = gauge("build_info", ["version"],
        "Always 1; its label is the version of this program.");
    UPTIME = gauge("uptime_seconds", [],
        "Time since this node started.");
    DRAINING = gauge("draining", [],
        "1 while this node is going away and takes nothing new, else 0.");
    LOOP_LAG = histogram("event_loop_lag_seconds", [],
        "By how much alarms of this node rang too late: it had no CPU, or something in it took too long.");

    MESSAGES = counter("messages_accepted_total", ["datacenter"],
        "Messages this node accepted for sending.");
    FRAMES = counter("frames_sealed_total", ["datacenter"],
        "Batch frames this node made; one crosses the WAN for many messages.");
    DELIVERED = counter("messages_delivered_total", ["datacenter", "route"],
        "Messages their destination took, by the route of the last attempt: through a proxy, direct, or back \
         through a proxy of this datacenter.");
    FAILED = counter("messages_failed_total", ["datacenter", "reason"],
        "Messages this node gave up, by reason.");
    ATTEMPTS = counter("attempts_total", ["outcome"],
        "Tries of one message over one route, by how they ended.");
    FALLBACKS = counter("fallbacks_total", ["reason"],
        "Messages that left the route they were on, by reason; reason direct means that no proxy was \
         usable.");
    VERDICTS = counter("verdicts_total", ["verdict"],
        "Whom this sender blamed when nobody answered in time: a proxy, its connection of one lane, a member, a datacenter, itself; capped means that \
         half of the proxies were left alone already. Or for a false ack: one destination reports a proxy, or it is ejected; for a false life, its member says that it did not restart; \
         for a false hold, it does not have what the proxy said it holds.");
    RESENT_BYTES = counter("resent_bytes_total", [],
        "Bytes sent again to other datacenters because nobody answered in time, after the second stage.");
    FALSE_ACKS = counter("false_acks_total", [],
        "Messages that a proxy acknowledged and their destinations say they never had. Unless a report is false they are \
         lost, and this sender was told that they were delivered.");
    BUSY = counter("busy_total", [],
        "Batches that were turned away or had to wait because a budget was used up.");
    UNREMEMBERED_FRAMES = counter("unremembered_frames_total", [],
        "Batch frames written that no later one may refer to, because the other end of a bulk connection has not said for 4 MiB \
         or 8,192 frames what arrived, or the frame alone has more than 4 MiB: they cost more bytes.");
    SENT_BYTES = counter("sent_bytes_total", ["datacenter", "stage"],
        "Bytes sent towards a datacenter: logical is what direct sends would have cost, then after the \
         diff, after the second stage, and on the wire.");
    ECHOED_BYTES = counter("echoed_bytes_total", ["datacenter"],
        "Payload bytes that were not sent towards a datacenter because its proxy had sent them itself, as a proposal that comes \
         back in an entry: those for several destinations once.");
    RECEIVED_BYTES = counter("received_bytes_total", ["datacenter"],
        "Bytes received from a datacenter, as on the wire.");
    ACK_LATENCY = histogram("ack_latency_seconds", ["datacenter"],
        "Time from the first frame of a message to its acknowledgement.");
    QUEUE_BYTES = gauge("queue_bytes", ["datacenter"],
        "Bytes this sender holds for a datacenter, queued or unacknowledged.");
    PENDING = gauge("pending_messages", ["datacenter"],
        "Messages this sender holds for a datacenter, queued or unacknowledged.");
    UNREACHED = gauge("destinations_unreached", ["datacenter"],
        "Destinations that nothing reaches: messages wait, nothing was answered for 2 s, and attempts came to nothing.");
    UNTAKEN = gauge("destinations_untaken", ["datacenter"],
        "Destinations that are full and have taken nothing for 10 s of what this sender sent: their applications take nothing.");
    WITHOUT_ROOM = gauge("flows_without_room", ["datacenter"],
        "Destinations and lanes whose messages wait at this sender because the receiver has no room for them.");
    LEAST_ROOM = gauge("least_room_bytes", ["datacenter"],
        "The least room that any destination of a datacenter has by its own word, less what is under way to it.");
    ROUTE_IN_USE = gauge("route_in_use", ["datacenter", "proxy"],
        "1 for the proxies new batches travel through, else 0.");
    ROUTE_STATE = gauge("route_state", ["datacenter", "proxy", "state"],
        "1 for the state a proxy is in as seen by this sender, 0 for the others.");
    ROUTE_SNOOZED = gauge("route_snoozed_seconds", ["datacenter", "proxy"],
        "How long a proxy that failed will still be left alone.");
    ROUTE_TIMEOUT = gauge("route_attempt_timeout_seconds", ["datacenter", "proxy"],
        "How long an attempt through this proxy waits for its acknowledgement at present.");

    PROXY_FRAMES = counter("proxy_frames_received_total", [],
        "Batch frames this proxy received.");
    PROXY_RUNS = counter("proxy_runs_received_total", [],
        "Runs of messages for one destination that this proxy received.");
    PROXY_FORWARDED = counter("proxy_runs_forwarded_total", [],
        "Runs of messages for one destination that this proxy passed on.");
    PROXY_FORWARDED_BYTES = counter("proxy_forwarded_bytes_total", [],
        "Payload bytes this proxy passed on.");
    PROXY_ANSWERS = counter("proxy_answers_total", [],
        "Runs that this proxy passed back from its members to origins elsewhere.");
    PROXY_ANSWER_FRAMES = counter("proxy_answer_frames_total", [],
        "Frames in which this proxy passed them back.");
    PROXY_REFUSED = counter("proxy_runs_refused_total", ["reason"],
        "Runs of messages this proxy refused, by reason.");
    PROXY_QUEUE_BYTES = gauge("proxy_queue_bytes", [],
        "Bytes this proxy holds for its members, and for origins elsewhere.");
    HOP_LATENCY = histogram("hop_latency_seconds", [],
        "Time from the arrival of a frame at this proxy to the write of a run to its member.");

    MEMBER_HANDED_OVER = counter("member_messages_handed_over_total", [],
        "Messages this member handed to its application.");
    MEMBER_HANDED_OVER_BYTES = counter("member_handed_over_bytes_total", [],
        "Payload bytes this member handed to its application.");
    MEMBER_DUPLICATES = counter("member_duplicates_total", [],
        "Messages that arrived a second time and were discarded.");
    MEMBER_SKIPPED = counter("member_skipped_total", [],
        "Messages this member passed over because their sender gave them up.");
    MEMBER_FALSE_LIVES = counter("member_false_lives_total", [],
        "Times that a proxy had told this member of a later life of a sender, which that one does not live.");
    MEMBER_FALSE_FLOORS = counter("member_false_floors_total", [],
        "Times that a proxy was found to have told this member that a sender gave up what it had not.");
    MEMBER_REFUSED = counter("member_messages_refused_total", ["reason"],
        "Messages this member refused, by reason.");
    INBOX_BYTES = gauge("inbox_bytes", [],
        "Bytes the application of this member has not taken yet.");
    INBOX_UNTAKEN = gauge("inbox_untaken_seconds", [],
        "How long the application of this member has taken nothing of what is in its inbox; 0 while nothing is.");
    HELD_BYTES = gauge("held_bytes", [],
        "Bytes this member holds behind a gap, or because its inbox has no room.");

    LINK_UP = gauge("link_up", ["peer", "datacenter"],
        "1 while both connections of the link to a peer are established, else 0.");
    PEER_DOWN = gauge("peer_down_seconds", ["peer", "datacenter"],
        "How long this node has dialled a peer in vain that is to be linked all the time.");
    LINK_RTT = gauge("link_rtt_seconds", ["peer", "datacenter"],
        "Smoothed round trip to a peer.");
    LINK_RTT_MIN = gauge("link_rtt_min_seconds", ["peer", "datacenter"],
        "Smallest round trip to a peer of the last minute or two, on its present link.");
    LINK_CLOCK_OFFSET = gauge("link_clock_offset_seconds", ["peer", "datacenter"],
        "The clock of a peer minus the clock of this node, within half the smallest round trip and 40 µs.");

    HANDSHAKES = counter("handshakes_total", [],
        "Handshakes completed.");
    HANDSHAKES_REFUSED = counter("handshakes_refused_total", ["code", "by"],
        "Handshakes refused, by code, and by whom: this node (us) or the peer.");
    PROTOCOL_ERRORS = counter("protocol_errors_total", ["error"],
        "Connections closed over what the peer sent, or over a frame that could not be made, by error.");
    LINKS_ENDED = counter("links_ended_total", ["reason"],
        "Links that were up and ended, by reason.");
    DIALS = counter("dials_total", [],
        "Connections this node began, two per link.");
    DIALS_FAILED = counter("dials_failed_total", [],
        "Connections this node began that failed before a handshake.");
    TLS_FAILED = counter("tls_handshakes_failed_total", ["reason"],
        "TLS handshakes that failed, of links and of the admin API, and connections that TLS ended, by reason.");
    CERTIFICATE_EXPIRY = gauge("certificate_expiry_seconds", [],
        "Time until the certificate of this node expires; below zero once it has.");
    CA_EXPIRY = gauge("ca_expiry_seconds", [],
        "Time until the first of the CAs that this node trusts expires.");
    CERTIFICATE_INVALID = gauge("certificate_invalid", [],
        "1 while the certificate of this node is no good by its own clock, CAs and list: it expired, is not valid yet, was revoked or is of no CA that is trusted; else 0.");
    CERTIFICATE_FILES_WRONG = gauge("certificate_files_wrong", [],
        "1 while the files of certificate, key and CA are not taken as they are now, else 0.");
    CERTIFICATE_RELOADS = counter("certificate_reloads_total", ["outcome"],
        "Changed files of certificate, key and CA: taken into use (ok), or not (failed), the old ones staying \
         in use.");
    ACCEPT_ERRORS = counter("accept_errors_total", [],
        "Connections that could not be accepted, as when the process is out of descriptors.");
    ACKS_IGNORED = counter("acks_ignored_total", [],
        "Acknowledgements that named something this node does not know, or came over a link by which nothing went there.");
}
