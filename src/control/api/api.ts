/**
 * The control API: JSON over HTTP on the control socket (docs/reference/control-api.md).
 *
 * Invariants:
 * - Every body and query is validated before anything happens; unknown fields are errors.
 * - Every error has the shape `{error: {code, message, remedy}}` and the status of the catalogue.
 * - A page in a browser cannot command a node that listens on loopback: requests that a browser marks
 *   as coming from a page are refused, and only JSON bodies are read.
 */
import { fastify, type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import type { Logger } from 'pino';
import { z } from 'zod';
import { BlockferryError, ERROR_CATALOGUE, errorText } from '../../io/errors.ts';
import {
  CONTROL_BODY_BYTES_MAX,
  CONTROL_CONNECTIONS_MAX,
  EVENT_FOLLOWER_BACKLOG_BYTES_MAX,
} from '../../io/limits.ts';
import type { BlockferryEvent } from '../../replicator/status.ts';
import { REFUSALS } from '../../volume/refusals.ts';
import { check, FLAG, NO_BODY, NO_QUERY, type VolumeRoute } from './api-checks.ts';
import { addFailoverRoutes } from './api-failover.ts';
import { addMirrorRoutes } from './api-mirrors.ts';
import { addSnapshotRoutes } from './api-snapshots.ts';
import { addCheckRoute } from './check.ts';
import type { EventLog } from '../events.ts';
import type { FailoverCommands } from '../commands/failover.ts';
import type { MergeCommands } from '../commands/merges.ts';
import type { MirrorCommands } from '../commands/mirrors.ts';
import type { SnapshotCommands } from '../commands/snapshots.ts';
import type { NodeFacts, ReloadReport, VolumeStatus } from '../status.ts';
import type { VolumeCommands } from '../commands/volumes.ts';

const REFUSE = z
  .array(z.enum(REFUSALS))
  .refine((words) => new Set(words).size === words.length, 'says something twice');
const SET_BODY = z.strictObject({
  refuse: REFUSE.optional(),
  mirror_of: z.string().optional(),
  force: z.boolean().default(false),
  forget_old_primary: z.boolean().default(false),
});
const CREATE_BODY = z.strictObject({
  name: z.string(),
  size: z.string(),
  mirror_of: z.string().nullable().default(null),
  on: z.string().nullable().default(null),
  refuse: REFUSE.default([]),
});
const RESIZE_BODY = z.strictObject({ size: z.string(), force: z.boolean().default(false) });
const DELETE_QUERY = z.strictObject({ force: FLAG });
const EVENTS_QUERY = z.strictObject({ follow: FLAG });

interface ApiOptions {
  readonly commands: VolumeCommands;
  readonly failover: FailoverCommands;
  readonly mirrors: MirrorCommands;
  readonly snapshots: SnapshotCommands;
  readonly merges: MergeCommands;
  readonly events: EventLog;
  readonly log: Logger;
  readonly facts: () => NodeFacts;
  readonly reload: () => ReloadReport;
  /** Requests wait for it: the node is being started. Rejects when that failed. */
  readonly started: Promise<void>;
}

/** The API, ready to listen. */
export function createApi(options: ApiOptions): FastifyInstance {
  const app = fastify({
    logger: false,
    bodyLimit: CONTROL_BODY_BYTES_MAX,
    // A name of 255 bytes, each percent-encoded.
    routerOptions: { maxParamLength: 1024 },
    forceCloseConnections: 'idle',
  });
  app.server.maxConnections = CONTROL_CONNECTIONS_MAX;
  app.removeContentTypeParser('text/plain');
  app.addHook('onRequest', refuseBrowsers);
  app.addHook('onRequest', () => options.started);
  app.setErrorHandler((error, request, reply) => answerError(options.log, error, request, reply));
  app.setNotFoundHandler((request, reply) => {
    const message = `there is no ${request.method} ${request.url.slice(0, 200)}`;
    return sendError(reply, 404, new BlockferryError('REQUEST_INVALID', message));
  });
  app.get('/v1/node', (request) => {
    check('query', NO_QUERY, request.query);
    return options.facts();
  });
  app.post('/v1/reload', (request) => {
    check('body', NO_BODY, request.body ?? {});
    return options.reload();
  });
  addVolumeRoutes(app, options.commands);
  addSetRoute(app, options);
  addFailoverRoutes(app, options.failover);
  addMirrorRoutes(app, options.mirrors);
  addSnapshotRoutes(app, options);
  addCheckRoute(app, options.commands);
  addEventRoute(app, options.events);
  return app;
}

function addVolumeRoutes(app: FastifyInstance, commands: VolumeCommands): void {
  app.get('/v1/status', (request) => {
    check('query', NO_QUERY, request.query);
    return commands.status();
  });
  app.get('/v1/volumes', (request) => {
    check('query', NO_QUERY, request.query);
    return { volumes: commands.status().volumes };
  });
  app.post('/v1/volumes', (request, reply) => {
    const body = check('body', CREATE_BODY, request.body);
    reply.code(201);
    const { name, size, mirror_of: mirrorOf, on, refuse: refuses } = body;
    return commands.create(name, size, { mirrorOf, on, refuses });
  });
  app.get<VolumeRoute>('/v1/volumes/:name', (request) => {
    check('query', NO_QUERY, request.query);
    return commands.show(request.params.name);
  });
  app.delete<VolumeRoute>('/v1/volumes/:name', (request) => {
    const { name } = request.params;
    const { force } = check('query', DELETE_QUERY, request.query);
    return commands.delete(name, { force }).then(() => ({ deleted: name }));
  });
  app.post<VolumeRoute>('/v1/volumes/:name/resize', (request) => {
    const { size, force } = check('body', RESIZE_BODY, request.body);
    return commands.resize(request.params.name, size, { force });
  });
}

function addSetRoute(app: FastifyInstance, options: ApiOptions): void {
  app.post<VolumeRoute>('/v1/volumes/:name/set', (request) =>
    setVolume(options, request.params.name, check('body', SET_BODY, request.body)),
  );
}

/** Of a mirror: whom it follows, then what it refuses. Of one that was promoted: that nobody comes back. */
async function setVolume(
  { commands, failover }: ApiOptions,
  name: string,
  { refuse, mirror_of: node, force, forget_old_primary: forget }: z.infer<typeof SET_BODY>,
): Promise<VolumeStatus> {
  if (refuse === undefined && node === undefined && !forget) {
    throw new BlockferryError('REQUEST_INVALID', 'body: there is nothing to set');
  }
  if (force && node === undefined) {
    throw new BlockferryError('REQUEST_INVALID', 'body.force: only with mirror_of');
  }
  if (forget) await failover.forget(name);
  if (node !== undefined) await failover.follow(name, node, { force });
  return refuse === undefined ? commands.show(name) : await commands.setPolicy(name, refuse);
}

function addEventRoute(app: FastifyInstance, events: EventLog): void {
  app.get('/v1/events', (request, reply) => {
    const { follow } = check('query', EVENTS_QUERY, request.query);
    if (follow) {
      followEvents(events, reply);
      return undefined;
    }
    return reply.type('application/x-ndjson').send(events.recent().map(eventLine).join(''));
  });
}

function followEvents(events: EventLog, reply: FastifyReply): void {
  const { raw } = reply;
  let started = false;
  const start = (): void => {
    if (started) return;
    started = true;
    reply.hijack();
    raw.writeHead(200, { 'content-type': 'application/x-ndjson', connection: 'close' });
    raw.flushHeaders();
  };
  const unfollow = events.follow({
    deliver(event) {
      start();
      raw.write(eventLine(event));
      return raw.writableLength <= EVENT_FOLLOWER_BACKLOG_BYTES_MAX;
    },
    end(reason) {
      if (reason === 'dropped') raw.destroy();
      else raw.end();
    },
  });
  start();
  raw.on('close', unfollow);
  // The reader went away in the middle of a line; 'close' follows.
  raw.on('error', () => {});
}

function eventLine(event: BlockferryEvent): string {
  return `${JSON.stringify(event)}\n`;
}

function refuseBrowsers(
  request: FastifyRequest,
  _reply: FastifyReply,
  done: (error?: Error) => void,
): void {
  const { headers } = request;
  if (headers.origin === undefined && headers['sec-fetch-site'] === undefined) done();
  else done(new BlockferryError('REQUEST_INVALID', 'the control API does not answer web pages'));
}

function answerError(
  log: Logger,
  thrown: unknown,
  request: FastifyRequest,
  reply: FastifyReply,
): FastifyReply {
  if (thrown instanceof BlockferryError) return sendError(reply, thrown.status, thrown);
  const status = clientFault(thrown);
  if (status !== null) {
    return sendError(reply, status, new BlockferryError('REQUEST_INVALID', errorText(thrown)));
  }
  log.error({ err: thrown, method: request.method, url: request.url }, 'a command failed');
  return sendError(reply, 500, new BlockferryError('INTERNAL', errorText(thrown)));
}

/** The status of an error that fastify found in the request itself (bad JSON, body too long), else null. */
function clientFault(thrown: unknown): number | null {
  if (!(thrown instanceof Error) || !('statusCode' in thrown)) return null;
  const { statusCode } = thrown;
  return typeof statusCode === 'number' && statusCode >= 400 && statusCode < 500
    ? statusCode
    : null;
}

function sendError(reply: FastifyReply, status: number, error: BlockferryError): FastifyReply {
  const { remedy } = ERROR_CATALOGUE[error.code];
  return reply.code(status).send({ error: { code: error.code, message: error.message, remedy } });
}
