/**
 * Every bound of the program, by name (invariant I11). What happens at the limit stands beside it.
 * Sizes are bytes and times are milliseconds unless the name says otherwise.
 */

const KIB = 1024;
const MIB = 1024 * KIB;

/** The unit of maps and bitmaps. */
export const BLOCK_BYTES: number = 4 * KIB;
/** One leaf of maps and bitmaps, and one region of the activity log: 1024 blocks. */
export const REGION_BYTES: number = 4 * MIB;
export const BLOCKS_PER_REGION: number = REGION_BYTES / BLOCK_BYTES;

/** Largest volume: 8 PiB is the last size whose offsets are safe integers; one region less. Refused. */
export const VOLUME_BYTES_MAX: number = 2 ** 50;
/** Volumes of a node. One more is refused. */
export const VOLUMES_MAX = 4096;
/** Bytes of a volume name in UTF-8. Longer is refused. */
export const VOLUME_NAME_BYTES_MAX = 255;
/** Snapshots of one volume. One more is refused. */
export const SNAPSHOTS_PER_VOLUME_MAX = 1024;
/** Check: places named one by one for each code and file. The rest is counted in the last of them. */
export const CHECK_PLACES_MAX = 16;
/** Check: runs, extents or records looked at in one turn of the event loop. The rest waits for the next turn. */
export const CHECK_STEPS_PER_TURN = 256;
/** Check: bytes of a layer's file read at once. */
export const CHECK_READ_BYTES: number = MIB;
/** Bytes of a snapshot's name in UTF-8. Longer is refused. */
export const SNAPSHOT_NAME_BYTES_MAX = 255;
/** Regions of one chain of layers whose owners are known block by block, 2 KiB each. The oldest is forgotten. */
export const OWNER_LEAVES_MAX = 32_768;
/** Mirrors of one volume. One more is refused. */
export const MIRRORS_PER_VOLUME_MAX = 8;

/** NBD: bytes of an option's data. A longer option ends the connection. */
export const NBD_OPTION_BYTES_MAX: number = 64 * KIB;
/** NBD: options in one handshake. One more ends the connection. */
export const NBD_OPTIONS_MAX = 64;
/** NBD: time from accept to transmission. A slower client is disconnected. */
export const NBD_HANDSHAKE_MS_MAX = 10_000;
/** NBD: bytes of replies in one handshake. Asking for more (LIST again and again) ends the connection. */
export const NBD_HANDSHAKE_REPLY_BYTES_MAX: number = 16 * MIB;
/** NBD: how long a stopping server still answers handshakes, with ERR_SHUTDOWN. Then they are cut. */
export const NBD_HANDSHAKE_DRAIN_MS_MAX = 1_000;
/** NBD: requests of one connection parsed in one turn. The rest waits for the next turn. */
export const NBD_REQUESTS_PER_TURN_MAX = 1024;
/** NBD: warnings about clients in the log, a minute. More are counted and the count is logged. */
export const NBD_WARNINGS_PER_MINUTE_MAX = 60;
/** NBD: connections of a node, handshaking ones included. One more is closed at accept. */
export const NBD_CONNECTIONS_MAX = 4096;
/** NBD: connections from one IP address. One more is closed at accept. */
export const NBD_CONNECTIONS_PER_CLIENT_MAX = 1024;
/** NBD: connections in the handshake. One more ends the oldest of them. */
export const NBD_HANDSHAKES_MAX = 512;
/** NBD: bytes held for requests and replies of all connections. Then only one that holds none may begin. */
export const NBD_IN_FLIGHT_BYTES_TOTAL_MAX: number = 512 * MIB;
/** NBD: largest payload, advertised as maximum block size. Up to twice is drained and refused. */
export const NBD_PAYLOAD_BYTES_MAX: number = 32 * MIB;
/** NBD: unanswered requests of one connection. At the limit the connection is not read. */
export const NBD_IN_FLIGHT_REQUESTS_MAX = 1024;
/** NBD: payload bytes held for unanswered requests of one connection. At the limit it is not read. */
export const NBD_IN_FLIGHT_BYTES_MAX: number = 64 * MIB;
/** NBD: reply bytes a client may leave unread before the server stops reading its requests. */
export const NBD_REPLY_BACKLOG_BYTES_MAX: number = 8 * MIB;
/** NBD: the read buffer that all connections of a thread share. */
export const NBD_READ_BUFFER_BYTES: number = MIB;
/**
 * NBD: bytes received and not yet parsed of one connection whose client said its last: the rest of its socket,
 * looked through for a DISC. With more the client counts as gone.
 */
export const NBD_STASH_BYTES_MAX: number = 16 * MIB;
/**
 * NBD: bytes that arrive after this long without any may be as old, and their client gone: the system is asked
 * first. Shorter than the shortest timeout of the Linux client, with room for what waits in its socket.
 */
export const NBD_FRESH_MS_MAX = 100;
/** NBD: chunks of data and holes in one reply to a READ. The rest is sent as data. */
export const NBD_READ_CHUNKS_MAX = 64;
/** NBD: looks at the allocation map for one READ. The rest is sent as data. */
export const NBD_READ_LOOKS_MAX = 256;
/** NBD: extents in one status chunk. The rest is for the client's next request. */
export const NBD_STATUS_EXTENTS_MAX = 4096;
/** NBD: looks at the maps for one BLOCK_STATUS, shared by its contexts. The rest is for the next request. */
export const NBD_STATUS_LOOKS_MAX = 8192;
/** NBD: what counts as one request more of NBD_REQUESTS_PER_TURN_MAX: looks at maps, or bytes described. */
export const NBD_LOOKS_PER_REQUEST = 16;
export const NBD_STATUS_BYTES_PER_REQUEST: number = 64 * 1024 * MIB;
/** NBD: what is missing of a payload that is at least this long is read into its place, past the shared buffer. */
export const NBD_LANDING_BYTES_MIN: number = 64 * KIB;
/** NBD: how long a stopping server waits for requests in flight. Then connections are cut. */
export const NBD_DRAIN_MS_MAX = 10_000;
/** NBD: the strings of the protocol (names, messages). Longer ones are refused or cut. */
export const NBD_STRING_BYTES_MAX = 4096;

/** NBD: bytes of a name that a message echoes. The rest is left out. */
export const NBD_ECHO_BYTES_MAX = 256;
/** NBD: queries of one LIST_META_CONTEXT or SET_META_CONTEXT. More are refused. */
export const NBD_META_QUERIES_MAX = 256;
/** NBD: contexts that one client may choose. Choosing more is refused. */
export const NBD_META_CONTEXTS_MAX = 64;

/** NBD client: unanswered requests of one connection, besides a prepared batch. More is a fault of the caller. */
export const NBD_CLIENT_REQUESTS_MAX = 4096;
/** NBD client: requests of one prepared batch. More is a fault of the caller. */
export const NBD_PREPARED_REQUESTS_MAX: number = 64 * KIB;
/** NBD client: pieces of one large request on their way at one time. The others follow. */
export const NBD_CLIENT_PIECES_IN_FLIGHT_MAX = 4;
/** NBD client: zeroes written in one piece where the server has no WRITE_ZEROES. */
export const NBD_CLIENT_ZERO_PIECE_BYTES: number = MIB;
/** NBD client: infos that a server may send about an export. One more ends the connection. */
export const NBD_CLIENT_INFOS_MAX = 64;
/** NBD client: extents in one chunk of block status, the most that known servers send. More ends the connection. */
export const NBD_CLIENT_STATUS_EXTENTS_MAX: number = 2 ** 20;
/** NBD client: characters of a server's message that are shown. The rest is cut. */
export const NBD_CLIENT_MESSAGE_CHARACTERS_MAX = 200;
/** NBD client: how long a polite close waits for answers. Then the connection is cut. */
export const NBD_CLIENT_CLOSE_MS_MAX = 5_000;

/** Pooled buffers kept for reuse, in total. Buffers beyond it are left to the garbage collector. */
export const POOL_BYTES_MAX: number = 128 * MIB;

/** Sockets: connections that the system holds until they are accepted. More are refused by the system. */
export const LISTEN_BACKLOG = 511;
/** Sockets: silence after which the system asks the peer whether it is still there. */
export const CONNECTION_KEEP_ALIVE_MS = 30_000;
/** Sockets: how long a peer may take to close its side after ours said all. Then it is cut. */
export const CONNECTION_LINGER_MS = 2_000;
/** TLS: bytes of a file of certificates or keys. A longer one is refused. */
export const TLS_FILE_BYTES_MAX: number = MIB;
/** TLS: bytes that are copied together to be encrypted at once. Larger pieces are encrypted one by one. */
export const TLS_GATHER_BYTES_MAX: number = 64 * KIB;
/** Bytes of the path of a file. A longer one is refused. */
export const FILE_PATH_BYTES_MAX = 4096;
/** TLS: bytes of a pre-shared key, and of the name of its user. More is refused. */
export const PSK_KEY_BYTES_MAX = 256;
export const PSK_USER_BYTES_MAX = 255;
/** Sockets: what the system may hold of our bytes for the reader of a unix socket. */
export const UNIX_SEND_BUFFER_BYTES: number = MIB;
/** Sockets: whoever takes this long to answer on a unix socket that we want counts as alive. */
export const UNIX_PROBE_MS_MAX = 1_000;

/** System calls of ours running away from the main thread. More wait their turn. */
export const SYSCALLS_IN_FLIGHT_MAX = 8;

/** Staging: bytes of payload held for the mirrors of a volume. At the limit the policy leaves stream. */
export const STAGING_BYTES_MAX: number = 256 * MIB;
/** Staging: memory that a node whose queues are empty keeps for reuse. More is left to the garbage collector. */
export const STAGING_POOL_BYTES_MAX: number = 32 * MIB;
/** Staging: part of its memory that the epochs which are sent next may fill. More goes to disk, where there is a ring for it. */
export const STAGING_KEPT_PART = 0.25;
/** Staging: part of its memory up to which more comes back from disk. Beyond it what is there is sent first. */
export const STAGING_LOADED_PART = 0.5;
/** Staging: one slab of payloads. */
export const STAGING_SLAB_BYTES: number = MIB;
/** Staging: an epoch closes at this size when the link is free for it. */
export const EPOCH_BYTES: number = 8 * MIB;
/**
 * Staging: what came to an epoch that is open, and that nobody waits for, is sent ahead of its end when it is so much. Less costs
 * both nodes a turn of their own.
 */
export const EPOCH_PUSH_BYTES: number = 512 * KIB;
/** Staging: an epoch closes at this size even while an earlier one is on its way. */
export const EPOCH_BYTES_MAX: number = 32 * MIB;
/** Staging: an epoch closes at this age. */
export const EPOCH_AGE_MS = 20;
/** Staging: entries of one epoch. At the limit it closes. */
export const EPOCH_ENTRIES_MAX: number = 64 * KIB;
/** Staging: zero ranges of one epoch. At the limit it closes. */
export const EPOCH_ZERO_RANGES_MAX = 64;
/** Staging: closed epochs waiting. At the limit the policy leaves stream. */
export const EPOCHS_MAX = 4096;
/** Staging: the same, where there is a ring on disk. */
export const EPOCHS_ON_DISK_MAX: number = 64 * KIB;
/** Staging: bytes of the ring that can be set: two of the longest epochs fit, and the table of what is in it fits into memory. */
export const STAGING_DISK_BYTES_MIN: number = 64 * MIB;
export const STAGING_DISK_BYTES_MAX: number = 64 * 1024 * MIB;
/** Staging: bytes in memory that can be set. */
export const STAGING_MEMORY_BYTES_MIN: number = 64 * MIB;
export const STAGING_MEMORY_BYTES_MAX: number = 4096 * MIB;
/** Staging: pause before a ring that failed is made anew. */
export const STAGING_DISK_RETRY_MS = 30_000;

/** Replicator: differing ranges that a comparison reports. The rest is counted. */
export const VERIFY_RANGES_MAX = 100;
/** Replicator: epoch numbers reserved in the log at one time. More are reserved when half of them are used. */
export const EPOCHS_RESERVED: number = 2 ** 20;

/** Replicator: a larger range is zeroed in parts of this size, each a change of its own. */
export const ZERO_PART_BYTES: number = 256 * MIB;

/** Activity log: regions hot at one time. At the limit the coldest are retired first. */
export const HOT_REGIONS_MAX = 1024;
/**
 * Activity log: regions retired before what was written to them is durable everywhere; they count as suspect
 * until it is. At the limit writes to cold regions wait. Each region that waits for a mirror has a block in the
 * staging queue, so that queue is full before this.
 */
export const PARKED_REGIONS_MAX: number = STAGING_BYTES_MAX / BLOCK_BYTES;
/** Activity log: a region that saw no write for this long is retired. */
export const HOT_REGION_IDLE_MS = 5_000;

/** Policy: how long what is staged in memory waits for a lost link to another node. Then it is marked. */
export const MIRROR_GRACE_MS = 10_000;
export const CONFIGURED_GRACE_SECONDS_MAX = 3_600;
/** Policy: a mirror in stream leaves it when what it lacks is older than this. */
export const ACKNOWLEDGE_MS_MAX = 60_000;
/** Policy: part of the staging queue that may be filled. Above it a mirror leaves the stream. */
export const STAGING_FILL_MAX = 0.9;
/** Policy: a mirror leaves the stream when the queue, filled to this part at least, would be full within that time. */
export const RATE_FILL_MIN = 0.25;
export const RATE_HORIZON_MS = 10_000;
/** Policy: time constant of the mean rates. */
export const RATE_MEAN_MS = 2_000;
/** Policy: a mirror leaves the stream when what is staged, and is this much at least, has each block more often than this. */
export const REDUNDANCY_RATIO_MAX = 2;
export const REDUNDANCY_BYTES_MIN: number = STAGING_BYTES_MAX / 4;
/** Policy: staged blocks that are counted one by one. What is staged beyond them counts as if each came once. */
export const REDUNDANCY_BLOCKS_MAX: number = STAGING_BYTES_MAX / BLOCK_BYTES;
/** Policy: staged blocks that are looked at, the oldest first, a little more with the last epoch. The rest is taken to be like them. */
export const REDUNDANCY_LOOKS_MAX: number = 2 * REDUNDANCY_BLOCKS_MAX;
/** Policy: rates and redundancy must stay over their limits for this long. */
export const TRIGGER_HOLD_MS = 2_000;
/** Policy: first and longest pause before a mirror that had to leave the stream comes back; doubled from one to the next. */
export const STREAM_PAUSE_MS_MIN = 500;
export const STREAM_PAUSE_MS_MAX = 60_000;
/** Policy: a mirror that stayed in the stream for this long begins with the first pause again. */
export const STREAM_STEADY_MS = 120_000;
/** Throttling: one write of the host is held back this long at most. */
export const THROTTLE_MS_MAX = 100;
/** Schedule: traffic must have been low for this long. */
export const QUIET_MS_MIN = 10_000;
/** Schedule: what counts as low traffic, and the time between runs at most, when operators do not say. */
export const QUIET_BYTES_PER_SECOND = 1024 * 1024;
export const QUIET_INTERVAL_MS = 86_400_000;
/** Schedule: time between two runs. */
export const SCHEDULE_MS_MIN = 1000;
export const SCHEDULE_MS_MAX = 30 * 86_400_000;
/** A limit that is shared: who was told to wait and does not ask again within this does not wait any more. */
export const SHARE_ASK_MS_MAX = 500;
/** A limit that is shared: so much of it, as time at the full rate, somebody may be served before one who waits. */
export const SHARE_LEAD_MS = 10;
/** The limit of the node, in bytes a second. */
export const BANDWIDTH_MIN = 65_536;
export const BANDWIDTH_MAX = 2 ** 40;
/** Throttling: what an operator may set the lag limit to. */
export const LAG_LIMIT_MS_MIN = 1000;
export const LAG_LIMIT_MS_MAX = 3_600_000;
/** Token bucket: what may be sent at once after a pause, as time at the full rate, and at least in bytes. */
export const LIMIT_BURST_MS = 100;
export const LIMIT_BURST_BYTES_MIN: number = 64 * KIB;
/** Token bucket: the lowest limit, in bytes per second. Less is refused. */
export const LIMIT_RATE_MIN: number = 4 * KIB;

/** Delta run: bytes of one batch. */
export const DELTA_BATCH_BYTES: number = MIB;
/** Delta run: batches on their way at one time. */
export const DELTA_BATCHES_IN_FLIGHT_MAX = 8;
/** Delta run: with at most this many bytes left, host writes are staged during the run and it is the last. */
export const DELTA_FINAL_BYTES: number = 64 * MIB;
/** Delta run: one WRITE_ZEROES of a hole. A mirror that writes the zeroes must answer within MIRROR_REPLY_MS_MAX. */
export const DELTA_ZERO_BYTES_MAX: number = 64 * MIB;
/** Delta run to a node: buffers of DELTA_BATCH_BYTES, those that the link is sending included. With none free nothing is read. */
export const RUN_BUFFERS_MAX = 16;
/** Delta run to a node: reads of the frozen content on their way at one time. Others wait. */
export const RUN_READS_IN_FLIGHT_MAX = 16;
/** Delta run to a node: what is sent between two bookmarks, when the mirror answered the last one: bytes, or time. */
export const RUN_MARK_BYTES: number = 64 * MIB;
export const RUN_MARK_MS = 1_000;
/** Comparing: bytes of the volume that one question with digests is about, and that one about zeroes is. More ends the link. */
export const COMPARE_QUESTION_BYTES_MAX: number = DELTA_BATCH_BYTES;
/**
 * Comparing: bytes that one digest is about at first. Only where such groups differ are their blocks asked for: digests of large pieces
 * are many times as fast.
 */
export const COMPARE_GROUP_BYTES: number = 64 * KIB;
export const COMPARE_ZERO_BYTES_MAX: number = ZERO_PART_BYTES;
/** Comparing: questions without an answer. The primary asks no more; a mirror ends a link that has more. */
export const COMPARE_QUESTIONS_MAX = 256;
/** Delta run: sweeps that do not shrink the remainder before the mirror is called not-converging. */
export const DELTA_SWEEPS_STUCK_MAX = 5;

/** Mirror link: time without any reply while requests are outstanding. Then the link is lost. */
export const MIRROR_REPLY_MS_MAX = 10_000;
/** Mirror link: connecting and handshake. Slower is a failed attempt. */
export const MIRROR_CONNECT_MS_MAX = 5_000;
/** Mirror link: silence after which an idle link is probed. */
export const MIRROR_PROBE_MS = 2_000;
/** Mirror link: first and longest pause between attempts to connect; doubled from one to the next. */
export const MIRROR_RETRY_MS_MIN = 100;
export const MIRROR_RETRY_MS_MAX = 5_000;
/** Link: bytes of one message: hello, welcome, control message or command. A longer one ends the link. */
export const LINK_MESSAGE_BYTES_MAX: number = NBD_OPTION_BYTES_MAX;
/** Link: generations of a volume that a message names. More end the link. */
export const LINK_GENERATIONS_MAX = 1024;
/** Link: features that a hello or a welcome names, and characters of a name. More end the link. */
export const LINK_FEATURES_MAX = 32;
export const LINK_FEATURE_CHARACTERS_MAX = 32;
/** Link: connections that carry one link. More are refused. */
export const LINK_LANES_MAX = 16;
/** Link: characters of a text for people in a message. The sender cuts it; a longer one ends the link. */
export const LINK_TEXT_CHARACTERS_MAX = 1024;
/** Link: how long a mirror waits for the lanes of a link. Then it is given up. */
export const LINK_LANES_MS_MAX = 10_000;
/** Link: links of a node that wait for lanes. One more is refused. */
export const LINKS_HALF_OPEN_MAX = 64;
/** Link: how deep lists and tables of a message stand in each other. Deeper ones end the link. */
export const LINK_MESSAGE_DEPTH_MAX = 4;
/** Link: ranges of one frame. More end the link. */
export const LINK_RANGES_MAX = 4096;
/** Link: blocks that one frame of digests is about, and that one answer is: as many as a range of zeroes has. More end the link. */
export const LINK_DIGEST_BLOCKS_MAX = 4096;
export const LINK_ANSWER_BLOCKS_MAX: number = ZERO_PART_BYTES / BLOCK_BYTES;
/**
 * Link: memory of payloads that came and are in use. From here on the link is not read, down there it is again. What
 * the connections had in hand still comes: 6 MiB a lane. The lower one holds all that may be unacknowledged.
 */
export const LINK_RECEIVED_BYTES_HIGH: number = 128 * MIB;
export const LINK_RECEIVED_BYTES_LOW: number = 104 * MIB;
/**
 * Node: memory of payloads that came over all links and are in use. From HIGH on, links that hold SHARE or more are not read, but
 * for one at a time, each for a turn; down at LOW all are again.
 */
export const LINK_NODE_BYTES_HIGH: number = 256 * MIB;
export const LINK_NODE_BYTES_LOW: number = 208 * MIB;
export const LINK_SHARE_BYTES_MIN: number = 2 * MIB;
export const LINK_TURN_MS = 250;
/** Link: memory of payloads kept for reuse. More is left to the garbage collector. */
export const LINK_IDLE_BYTES_MAX: number = 16 * MIB;
/** Link: headers of frames kept for reuse. More are left to the garbage collector. */
export const LINK_IDLE_FRAMES_MAX = 1024;
/** Link: a payload with at least this much missing is read into its place, past the shared buffer. */
export const LINK_LANDING_BYTES_MIN: number = 64 * KIB;
/** Link: bytes that came behind the handshake of a lane. More end the link. */
export const LINK_EARLY_BYTES_MAX: number = 2 * MIB;
/** Link: a lane on which nothing was sent for so long sends a heartbeat. */
export const LINK_HEARTBEAT_MS = 1_000;
/** Link: a lane on which nothing came for so long ends the link. Counted in heartbeats. */
export const LINK_SILENCE_MS_MAX = 5_000;
/** Link: how long an end waits until everything is sent. Then the link is cut. */
export const LINK_CLOSE_MS_MAX = 5_000;
/** Link: payload bytes of one frame: a slab of staged entries, or a batch of a delta run, with room. A longer one ends the link. */
export const LINK_FRAME_BYTES_MAX: number = MIB + 64 * KIB;
/** Link: bytes that were given to it and not sent. At HIGH nothing more is given; at LOW it goes on. */
export const LINK_BACKLOG_BYTES_HIGH: number = 4 * MIB;
export const LINK_BACKLOG_BYTES_LOW: number = MIB;
/** Link: the same, of senders that do not hold back: answers that the other side does not read. Beyond it the link ends. */
export const LINK_BACKLOG_BYTES_MAX: number = 128 * MIB;
/** Link: data that waits for it, from which on its speed is measured. Less is no wait. */
export const COMPRESS_WAITING_BYTES_MIN: number = 64 * KIB;
/** Link: a payload shorter than this is never compressed: the way to a thread and back takes longer. */
export const COMPRESS_BYTES_MIN: number = 16 * KIB;
/** Link: how often it is looked at whether compression pays, while something is sent. */
export const COMPRESS_LOOK_MS = 250;
/**
 * Link: memory of payloads that came, those that wait to be expanded not counted. At the limit none is expanded until some of it
 * is released. It holds all that may be unacknowledged.
 */
export const LINK_EXPANDED_BYTES_MAX: number = LINK_RECEIVED_BYTES_LOW;
/** Link: payloads that are being expanded at one time. Others wait. */
export const LINK_EXPANDING_MAX = 4;
/** Link: payloads that wait to be expanded. From HIGH on the link is not read; with MAX it ends. */
export const LINK_COMPRESSED_FRAMES_HIGH = 1024;
export const LINK_COMPRESSED_FRAMES_MAX: number = 128 * KIB;
/** Stream: payload bytes and epochs sent and not acknowledged as durable. The sender waits; the intake ends a link with more. */
export const LINK_UNACKED_BYTES_MAX: number = 64 * MIB;
export const LINK_UNACKED_EPOCHS_MAX = 1024;
/** Stream: frames received and not acknowledged as durable. The bounds above leave no sender that many; more end the link. */
export const LINK_UNACKED_FRAMES_MAX: number = 128 * KIB;
/** Intake: bytes of durable epochs that are not applied yet. At the limit no further epoch is made durable. */
export const INTAKE_BACKLOG_BYTES_MAX: number = 64 * MIB;
/** Intake: bytes of epochs applied in one go, while reads wait. The rest lets the reads go first. */
export const INTAKE_PHASE_BYTES_MAX: number = 16 * MIB;
/** Intake: changes to the volume on their way at one time, of an epoch or of a delta run. The others follow. */
export const INTAKE_CHANGES_IN_FLIGHT_MAX = 64;
/** Intake: ranges of zeroes, and reads for a question, in one turn. Then others of the process have theirs. */
export const INTAKE_RANGES_PER_TURN_MAX = 32;
export const INTAKE_READS_PER_TURN_MAX = 16;
/** Intake: pause before what the disk refused is tried again. */
export const INTAKE_RETRY_MS = 5_000;
/** Intake: bytes and frames of a delta run that wait to be written. More end the link. */
export const INTAKE_RUN_BYTES_MAX: number = 256 * MIB;
export const INTAKE_RUN_FRAMES_MAX: number = 64 * KIB;
/** Intake: contents kept for comparing at one time. One more is refused. */
export const INTAKE_TWINS_MAX = 4;
/** Intake: control messages of a link that wait for the one before them. More end the link. */
export const INTAKE_MESSAGES_MAX = 64;
/** Intake: questions that are read and digested at one time. The others wait, up to COMPARE_QUESTIONS_MAX. */
export const INTAKE_QUESTIONS_AT_ONCE = 8;
/** Intake: a link that said nothing for so long gives way to a new one of the same primary. */
export const INTAKE_SILENT_MS = 4_000;
/** Intake: time between a welcome and the link that it was for. Then another is welcome. */
export const INTAKE_WELCOME_MS = 10_000;
/** Journal of a mirror: bytes of one of its two files. When both are full, epochs wait to be applied. */
export const JOURNAL_FILE_BYTES: number = 128 * MIB;
/** Journal: small pieces are written together in a buffer of this size. */
export const JOURNAL_GATHER_BYTES: number = MIB;
/** Journal: payloads from this size on are written from where they lie. */
export const JOURNAL_DIRECT_BYTES_MIN: number = 64 * KIB;
/** Journal: its epochs are made part of the volume for good when none came for so long. */
export const JOURNAL_IDLE_MS = 2_000;
/** Journal: a batch of at most so many bytes is written on the main thread, while that is quick. */
export const JOURNAL_AT_ONCE_BYTES_MAX: number = 256 * KIB;
/** Journal: written bytes, or time since the last one began, at which a sync begins that nobody waits for. */
export const JOURNAL_SYNC_BYTES: number = 4 * MIB;
export const JOURNAL_SYNC_MS = 5;
/** Journal: how long after somebody waited for a sync all is synced at once. */
export const JOURNAL_PROMPT_MS = 50;
/** Intake: how long after the last word it is not told what became durable or readable while nobody waits for it. */
export const INTAKE_ACK_MS_MAX = 5;
/** Synchronous mirror: a write waits this long for a stalled mirror, then the mode degrades. */
export const SYNC_DEADLINE_MS = 5_000;

/** Switchover: how long it may take at most, and if not given. Then the primary takes writes again. */
export const HANDOVER_MS_MAX = 600_000;
export const HANDOVER_MS = 30_000;
/** Switchover: between looks at whether everything arrived. */
export const HANDOVER_POLL_MS = 2;
/** How long a handover waits, while writes wait too, for mirrors that follow besides the one that takes over. Then they are compared. */
export const HANDOVER_OTHERS_MS = 1_000;
/** A mirror that rejoins: ranges that it tells at most. Of more, whole regions are told. */
export const REJOIN_RUNS_MAX = 65_536;
/** A mirror that rejoins: ranges of one message, so that it fits LINK_MESSAGE_BYTES_MAX. */
export const REJOIN_RUNS_PER_MESSAGE = 2048;

/** How long a volume takes no changes when its node starts, while its mirrors are asked for a newer generation. */
export const FENCE_ASK_MS_MAX = 2_000;

/** How long a stopping node ships what is staged. What is left then is marked in the delta bitmap. */
export const MIRROR_DRAIN_MS_MAX = 5_000;
/** Replicator: time between two looks at idle regions and deadlines. */
export const REPLICATOR_TICK_MS = 250;

/** History of a volume: of more generations the oldest are forgotten. Well below METADATA_RECORD_BYTES_MAX in bytes. */
export const GENERATIONS_MAX = 1024;
/** Metadata log: bytes of one record's payload. A longer one is corruption. */
export const METADATA_RECORD_BYTES_MAX: number = MIB;
/** Metadata log: compacted when it is this long and more than twice its state. */
export const METADATA_COMPACT_BYTES: number = 8 * MIB;

/** Metadata log: bytes of records waiting for a commit. Beyond it the next commit rewrites the whole state. */
export const METADATA_PENDING_BYTES_MAX: number = 64 * MIB;

/** Volume: syncs of the data file on their way at one time. Flushes that come then wait for the next, together. */
export const SYNCS_IN_FLIGHT_MAX = 4;
/** Volume: allocation records of a base layer that one flush makes durable. The others go with the next ones: the file has them too. */
export const FLUSH_RECORDS_MAX = 1024;
/** Volume: a write into the page cache that takes longer is slow (plus a millisecond for each MiB). */
export const WRITE_SLOW_MS = 2;
/** Volume: time lost in slow writes, less what is forgiven, past which writes go to the pool. */
export const WRITE_DEBT_MS_MAX = 20;
/** Volume: how long they go there; doubled each time they stay slow. */
export const WRITE_POOL_MS_MIN = 100;
export const WRITE_POOL_MS_MAX = 2_000;
/** Volume: bytes of zeroes written, or of a hole punched, by one call to the disk. */
export const ZERO_WRITE_BYTES_MAX: number = MIB;
export const ZERO_PUNCH_BYTES_MAX: number = 1024 * MIB;
/** Volume: how long one such call should take: the file is locked meanwhile. Pieces are cut by what was measured. */
export const ZERO_PIECE_MS = 8;
/** Volume: runs of blocks that one such call may touch, however fast the disk is. */
export const ZERO_PIECE_RUNS_MAX = 4096;

/** Volume: a piece of what CACHE asks for; one is read into memory at a time. */
export const READ_AHEAD_PIECE_BYTES: number = 4 * MIB;
/** Volume: data that one CACHE reads into memory. The rest of its range is left to the reads themselves. */
export const READ_AHEAD_BYTES_MAX: number = 256 * MIB;
/** Volume: CACHE requests that wait to be followed. More are answered and dropped. */
export const READ_AHEAD_HINTS_MAX = 64;

/** Merge: bytes of data copied at one time, and of one hole punched. More is done in several steps. */
export const MERGE_PIECE_BYTES: number = MIB;
export const MERGE_HOLE_BYTES: number = 64 * MIB;
/** Merge: a gap between two runs of data up to this long is read with them. */
export const MERGE_GAP_BYTES: number = 64 * KIB;
/** Merge: a run of data from this length on is copied by the system, where it can. */
export const MERGE_DIRECT_BYTES: number = 64 * KIB;
/** Merge: runs of blocks in one step. More are left to the next. */
export const MERGE_STEP_RUNS_MAX = 256;
/** Merge: steps on their way at one time, while the hosts are at rest. Else one. */
export const MERGE_STEPS_IN_FLIGHT_MAX = 2;
/** Merge: looks at the maps in one turn that find nothing to do. The next turn goes on. */
export const MERGE_LOOKS_MAX = 512;
/** Merge: what is copied before it is synced and recorded: bytes, while hosts are busy, runs and age. */
export const MERGE_BATCH_BYTES: number = 32 * MIB;
export const MERGE_BATCH_BYTES_BUSY: number = 8 * MIB;
export const MERGE_BATCH_RUNS_MAX = 8192;
export const MERGE_BATCH_MS = 1_000;
/** Merge: records appended in one turn. The next turn goes on. */
export const MERGE_RECORDS_PER_TURN = 256;
/** Merge: hosts are at rest when no request of theirs came, or is on its way, for so long. */
export const MERGE_QUIET_MS = 100;
/** Merge: the longest sleep in one go. Then it is looked at again whether there is still a reason to wait. */
export const MERGE_SLEEP_MS_MAX = 100;
/** Merge: pause before another attempt after the disk was full. */
export const MERGE_RETRY_MS = 30_000;

/** Container behind an export: requests on their way. The others wait. */
export const CONTAINER_REQUESTS_IN_FLIGHT_MAX = 256;
/**
 * Container behind an export: changes that were answered or are on their way, and are not flushed: their bytes and number. They
 * are kept in memory; at the limit the export is flushed and further changes wait for that.
 */
export const CONTAINER_UNFLUSHED_BYTES_MAX: number = 64 * MIB;
export const CONTAINER_UNFLUSHED_CHANGES_MAX = 16_384;
/** Container behind an export: of these, changes done again at one time on a new connection. The others follow. */
export const CONTAINER_REPLAYS_MAX = 64;
/** Container behind an export: how long requests wait for a new connection. Then they are answered EIO, until there is one. */
export const CONTAINER_WAIT_MS_MAX = 30_000;
/** Container behind an export: time without any reply while requests are outstanding. Then the connection is cut. */
export const CONTAINER_REPLY_MS_MAX = 30_000;
/** Container behind an export: first and longest pause between attempts to connect; doubled from one to the next. */
export const CONTAINER_RETRY_MS_MIN = 100;
export const CONTAINER_RETRY_MS_MAX = 2_000;
/** Container behind an export: zeroes of one request. More are done one after another. */
export const CONTAINER_ZERO_BYTES_MAX: number = 64 * MIB;

/** Import and export: bytes of one read, and reads with their writes on their way. The rest waits. */
export const TRANSFER_CHUNK_BYTES: number = MIB;
export const TRANSFER_CHUNKS_IN_FLIGHT_MAX = 8;
/** Import and export: a shorter hole between data is read with it: its zeroes are found in the bytes. */
export const TRANSFER_HOLE_BYTES_MIN: number = 64 * KIB;
/** Import and export: zeroes of one request. A server that writes them answers within TRANSFER_REPLY_MS_MAX. */
export const TRANSFER_ZERO_BYTES_MAX: number = 64 * MIB;
/** Import and export: time between two bookmarks, for each of which the target makes durable what it has. */
export const TRANSFER_BOOKMARK_MS = 2_000;
/** Import and export: bytes of a bookmark. A longer one is none. */
export const TRANSFER_BOOKMARK_BYTES_MAX: number = 64 * KIB;
/** Import and export: time without any reply while requests are outstanding. Then the transfer fails. */
export const TRANSFER_REPLY_MS_MAX = 120_000;
/** Import and export: places that are compared before a transfer goes on, and bytes of each. */
export const TRANSFER_SPOTS = 32;
export const TRANSFER_SPOT_BYTES: number = 64 * KIB;
/** Import and export: extents that are kept of one answer. The rest is asked for again. */
export const TRANSFER_EXTENTS_MAX: number = 64 * KIB;
/** Import and export: characters of the output of qemu-img that are kept. The rest is dropped. */
export const TRANSFER_TOOL_CHARACTERS_MAX: number = MIB;

/** Events kept for `blockferry events`. The oldest are dropped. */
export const EVENTS_MAX = 1000;
/** Control: bytes of one request body. Longer is refused. */
export const CONTROL_BODY_BYTES_MAX: number = 64 * KIB;
/** Control: snapshots in a list of NBD exports. More are left out of it; they are served by name. */
export const SNAPSHOTS_LISTED_MAX = 4096;
/** Control: ranges in one page of a difference, and the time that one may take. The rest is on the next page. */
export const DIFF_PAGE_RANGES_MAX = 16_384;
export const DIFF_PAGE_MS = 10;
/** Control: followers of the event stream. One more is refused. */
export const EVENT_FOLLOWERS_MAX = 64;
/** Control: bytes a follower of the event stream may leave unread. Then it is dropped. */
export const EVENT_FOLLOWER_BACKLOG_BYTES_MAX: number = MIB;
/** Control: connections at one time. One more is closed at accept. */
export const CONTROL_CONNECTIONS_MAX = 256;
/** HTTP: connections of those who only look at one time. One more is closed at accept. */
export const HTTP_CONNECTIONS_MAX = 64;
/** Control: commands that wait for an earlier one on the same volume. One more is refused. */
export const CONTROL_COMMANDS_WAITING_MAX = 64;
/** Control: how long the command line waits for an answer. Then the node counts as unreachable. */
export const CONTROL_REPLY_MS_MAX = 120_000;
/** Control: how long a stopping node waits for requests under way. Then they are cut. */
export const CONTROL_DRAIN_MS_MAX = 5_000;
/** Space: how often the file system of the data directory is asked for it. */
export const SPACE_LOOK_MS = 5_000;
/** Space: a file system with no more free than this, or than SPACE_FULL_PERCENT of it, is full: writes fail any moment. */
export const SPACE_FULL_BYTES: number = 64 * MIB;
export const SPACE_FULL_PERCENT = 1;
/** Space: bytes that a data directory keeps back for the records that free more. On a full disk that is less. */
export const SPARE_BYTES: number = MIB;
/** Configuration: the highest threshold of the warning of a full disk that can be set, in percent. More is refused. */
export const CONFIGURED_DISK_WARN_PERCENT_MAX = 50;
/** Log: bytes that a stuck reader of the log may leave unwritten. Further lines are dropped. */
export const LOG_BACKLOG_BYTES_MAX: number = 4 * MIB;
/** A stopping node is given this long in all. Then the process ends; what is on disk is crash-safe. */
export const NODE_STOP_MS_MAX = 60_000;
/** Two signals within this time are one Ctrl-C that arrived twice, not a demand for haste. */
export const DOUBLE_SIGNAL_MS = 1_000;
/** Bytes of a configuration file. A longer one is refused. */
export const CONFIG_BYTES_MAX: number = 64 * KIB;
/** Configuration: the highest limits of connections and handshakes that can be set. More is refused. */
export const CONFIGURED_CLIENTS_MAX = 65_536;
/** Configuration: the longest time for a handshake that can be set, in seconds. More is refused. */
export const CONFIGURED_HANDSHAKE_SECONDS_MAX = 3_600;
/** Configuration: the highest limit of options in a handshake that can be set. More is refused. */
export const CONFIGURED_OPTIONS_MAX = 4_096;
/** Configuration: the highest limit of bytes in flight that can be set, in MiB. More is refused. */
export const CONFIGURED_IN_FLIGHT_MIB_MAX = 65_536;
/** NBD: addresses a node listens on. One more is refused. */
export const NBD_LISTENERS_MAX = 16;
/** Control: bytes of an answer that the command line reads (status of thousands of volumes). Then it gives up. */
export const CONTROL_ANSWER_BYTES_MAX: number = 64 * MIB;
/** Workers: threads of the examiner's pool, whatever the number of cores. */
export const EXAMINER_THREADS_MAX = 4;
/** Workers: batches waiting for a thread. More are examined on the main thread. */
export const EXAMINER_QUEUE_MAX = 64;
/** Workers: batches in one message to a thread. More go with the next message. */
export const EXAMINER_GROUP_MAX = 8;
/** Workers: a batch smaller than this is digested on the main thread. */
export const EXAMINER_DIGEST_BYTES_MIN: number = 256 * KIB;
/** Workers: time without work after which a thread ends. */
export const EXAMINER_IDLE_MS = 5_000;
/** Workers: threads that compress and expand payloads of links, whatever the number of cores. */
export const COMPRESS_THREADS_MAX = 4;
/** Workers: payloads waiting for such a thread. More are sent as they are. */
export const COMPRESS_QUEUE_MAX = 64;
/** Workers: time without work after which such a thread ends. */
export const COMPRESS_IDLE_MS = 5_000;

/** Data directory: how long a start waits for the last threads of a killed holder. Then it is in use. */
export const LOCK_ENDING_MS_MAX = 2_000;

/** Netlink: bytes of one message or datagram. Requests are far smaller; what is larger is cut by the system. */
export const NETLINK_MESSAGE_BYTES_MAX: number = 16 * KIB;
/** Attach: connections of one device. More is refused. */
export const ATTACH_CONNECTIONS_MAX = 16;
/** Attach: servers that one device may turn to. More is refused. */
export const ATTACH_URIS_MAX = 8;
/** Attach: N of the last device /dev/nbdN that can be named. A higher one is refused. */
export const ATTACH_INDEX_MAX = 4095;
/** Attach: seconds that an unanswered request waits before it is sent again, unless told. Above what a synchronous mirror may delay it. */
export const ATTACH_REQUEST_S = 10;
/** Attach: seconds that requests wait for a server, unless told; then they fail. */
export const ATTACH_DEAD_S: number = 24 * 3600;
/** Attach: the longest of both that can be asked for. Timers of the kernel are not longer than some days. */
export const ATTACH_SECONDS_MAX: number = 7 * 24 * 3600;
/** Attach: time to connect to one server and shake hands. The next server is tried then. */
export const ATTACH_CONNECT_MS_MAX = 3000;
/** Attach: how often a keeper looks for lost connections, and tries again to replace them. */
export const ATTACH_POLL_MS = 100;
export const ATTACH_RETRY_MS = 250;
/** Attach: bytes on their way to a slow end of a relay. Above it the other end is not read. */
export const ATTACH_RELAY_BYTES_MAX: number = MIB;
/** Attach: time for nbd-client to attach or detach. It is ended then. */
export const ATTACH_TOOL_MS_MAX = 60_000;
/** Attach: characters kept of what it says. The oldest are dropped. */
export const ATTACH_TOOL_CHARACTERS_MAX: number = 16 * KIB;
