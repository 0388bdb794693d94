-- The shared counters of every gate that uses this Redis: reserved, settled and renewed in one step each.
--
-- All numbers are integers below 2^53, which Lua's doubles hold exactly; time is in microseconds of the server's clock.
-- Everything is read before anything is written, so a call that fails half-way leaves nothing behind. A refusal writes
-- nothing at all.
--
-- ARGV: operation, time ('' asks the server), id, lease in us, how long an open reservation is remembered in ms, the
-- generation of counters that the gate knows (0: any); then five for each counter: shape, bound, amount, first, second.
--   w  bound = capacity      first = length      second = width of a slice   state { seen, first slice, count, ... }
--   b  bound = burst * cost  first = cost        second = leak               state { level, at }
--   c  bound = capacity      first = period      second = age of a debt      state { used, end of the period }
--   n  bound = most          (a sorted set: id -> end of its lease)
-- KEYS: what is remembered of the id, the generation, then one key for each counter.
--
-- The generation is a number that lives as long as the counters do: where it is gone, or another, they were lost.
-- Remembered of an id: { OPEN, marks, amounts, answer } or { CLOSED }.

local MOST = 9007199254740991
local HOUR, DAY = 3600000000, 86400000000
local OPEN, CLOSED = 1, 2
local REFUSED, ADMITTED, VOID, FOREIGN, DONE, LOST = 0, 1, 2, 3, 4, 5
local NEVER, WHEN_ONE_ENDS = -1, -2
-- How long it is remembered that an id is settled, that one was cancelled before it came, and that a debt was told: a gate
-- that didn't hear the answer tells it again when Redis is back.
local CLOSED_MS, CANCELLED_MS, OWED_MS = 60000, 600000, 86400000
-- The generation outlives every counter: the longest is a month's, and a day more.
local GENERATION_MS = 40 * 86400000
-- No key goes sooner, however short its shape.
local LEAST_MS = 10000

local floor, max, min = math.floor, math.max, math.min

local now = tonumber(ARGV[2])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
local id, lease, open_ms, generation = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])

local function text(number) return string.format('%.0f', number) end

local function ceil_div(a, b)
  local whole = floor(a / b)
  if whole * b < a then return whole + 1 end
  return whole
end

-- What a command answers; false when the key holds another type than ours.
local function ask(...)
  local answer = redis.pcall(...)
  if type(answer) ~= 'table' or not answer.err then return answer, true end
  if string.find(answer.err, 'WRONGTYPE', 1, true) then return nil, false end
  return redis.call(...), true
end

-- The list that a key holds, or nil; false when it holds anything else.
local function read(key)
  local held, ours = ask('GET', key)
  if not ours then return nil, false end
  if not held then return nil, true end
  local whole, state = pcall(cmsgpack.unpack, held)
  if not whole or type(state) ~= 'table' or type(state[1]) ~= 'number' then return nil, false end
  return state, true
end

local function write(key, state, ms)
  redis.call('SET', key, cmsgpack.pack(state), 'PX', text(max(LEAST_MS, ms)))
end

local function year_start(year)
  local before = year - 1
  return 365 * (year - 1970) + floor(before / 4) - floor(before / 100) + floor(before / 400) - 477
end

-- The first moment after the period that `at` lies in.
local function period_end(period, at)
  if period == 1 then return (floor(at / HOUR) + 1) * HOUR end
  local days = floor(at / DAY)
  if period == 2 then return (days + 1) * DAY end
  if period == 3 then return ((floor((days + 3) / 7) + 1) * 7 - 3) * DAY end
  local year = 1970 + floor(days / 366)
  while year_start(year + 1) <= days do year = year + 1 end
  local border = year_start(year)
  local february = year_start(year + 1) - border - 337
  for _, length in ipairs({ 31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 }) do
    border = border + length
    if border > days then return border * DAY end
  end
end

-- Each shape: load reads the counter (false: not ours), fits and wait look at `amount`, free (less than none: over its
-- bound), used and reset tell how it stands, add counts (and answers the mark by which units are given back), back gives back, save writes. A lease isn't
-- given back in part: it ends.
local window, bucket, calendar, leases = {}, {}, {}, {}

function window.load(c)
  local state, ours = read(c.key)
  if not ours then return false end
  c.known = state ~= nil
  c.seen = max(now, state and state[1] or 0)
  c.newest = floor(c.seen / c.second)
  c.oldest = floor(max(0, c.seen - c.first + 1) / c.second)
  c.counts, c.total, c.start = {}, 0, c.newest
  for place = 3, state and #state or 0 do
    local slice, count = state[2] + place - 3, state[place]
    if slice >= c.oldest and count > 0 then
      c.counts[slice] = count
      c.total = c.total + count
      c.start = min(c.start, slice)
    end
  end
  return true
end

-- When at most `ceiling` units count if nothing else happens: the newest slices stay longest.
local function falls_to(c, ceiling)
  local stays = 0
  for slice = c.newest, c.start, -1 do
    stays = stays + (c.counts[slice] or 0)
    if stays > ceiling then return (slice + 1) * c.second + c.first - 1 end
  end
  return now
end

function window.fits(c) return c.total + c.amount <= c.bound end
function window.wait(c)
  if c.amount > c.bound then return NEVER end
  return falls_to(c, c.bound - c.amount) - now
end
function window.free(c) return c.bound - c.total end
function window.used(c) return c.total end
function window.reset(c) return falls_to(c, 0) - now end
function window.add(c, units)
  local added = min(units, MOST - c.total)
  c.counts[c.newest] = (c.counts[c.newest] or 0) + added
  c.total = c.total + added
  return c.newest
end
function window.back(c, units, slice)
  local count = c.counts[slice] or 0
  c.counts[slice] = count - min(units, count)
end
function window.save(c)
  local state = { c.seen, c.start }
  for slice = c.start, c.newest do state[#state + 1] = c.counts[slice] or 0 end
  write(c.key, state, ceil_div(2 * c.first, 1000))
end

function bucket.load(c)
  local state, ours = read(c.key)
  if not ours then return false end
  c.known = state ~= nil
  c.level, c.at = 0, now
  if state then
    c.at = max(now, state[2])
    c.level = max(0, state[1] - (c.at - state[2]) * c.second)
  end
  return true
end
function bucket.fits(c) return c.level + c.amount * c.first <= c.bound end
function bucket.wait(c)
  local asked = c.amount * c.first
  if asked > c.bound then return NEVER end
  return min(MOST, c.at - now + ceil_div(c.level - (c.bound - asked), c.second))
end
function bucket.free(c) return floor((c.bound - c.level) / c.first) end
function bucket.used(c) return ceil_div(c.level, c.first) end
function bucket.reset(c)
  if c.level == 0 then return 0 end
  return min(MOST, c.at - now + ceil_div(c.level, c.second))
end
function bucket.add(c, units)
  c.level = min(MOST, c.level + units * c.first)
  return c.at
end
-- What has drained since it was poured in can't be taken out again: others have poured in their own instead.
function bucket.back(c, units, at, reserved)
  local left = max(0, reserved * c.first - (c.at - at) * c.second)
  c.level = max(0, c.level - min(left, units * c.first))
end
function bucket.save(c)
  write(c.key, { c.level, c.at }, 2 * ceil_div(ceil_div(max(c.level, c.bound), c.second), 1000))
end

function calendar.load(c)
  local state, ours = read(c.key)
  if not ours then return false end
  c.known = state ~= nil
  if state and now < state[2] then
    c.used, c.border = state[1], state[2]
  else
    c.used, c.border = 0, period_end(c.first, now)
  end
  return true
end
function calendar.fits(c) return c.used + c.amount <= c.bound end
function calendar.wait(c)
  if c.amount > c.bound then return NEVER end
  return c.border - now
end
function calendar.free(c) return c.bound - c.used end
function calendar.used(c) return c.used end
function calendar.reset(c) return c.border - now end
function calendar.add(c, units, border)
  if border and border ~= c.border then return border end
  c.used = min(MOST, c.used + units)
  return c.border
end
function calendar.back(c, units, border)
  if border == c.border then c.used = max(0, c.used - units) end
end
function calendar.save(c)
  write(c.key, { c.used, c.border }, ceil_div(c.border - now + DAY, 1000))
end

function leases.load(c)
  local running, ours = ask('ZCOUNT', c.key, '(' .. text(now), '+inf')
  c.known, c.running = true, running
  return ours
end
function leases.fits(c) return c.running + c.amount <= c.bound end
function leases.wait(c)
  if c.amount > c.bound then return NEVER end
  return WHEN_ONE_ENDS
end
function leases.free(c) return c.bound - c.running end
function leases.used(c) return c.running end
function leases.reset() return 0 end
function leases.add(c)
  c.running = c.running + 1
  return 0
end
function leases.save(c)
  if c.ended then
    redis.call('ZREM', c.key, id)
    return
  end
  redis.call('ZREMRANGEBYSCORE', c.key, '-inf', text(now))
  redis.call('ZADD', c.key, text(now + lease), id)
  redis.call('PEXPIRE', c.key, text(max(LEAST_MS, ceil_div(2 * lease, 1000))))
end

local SHAPES = { w = window, b = bucket, c = calendar, n = leases }

local function counters()
  local all = {}
  for i = 3, #KEYS do
    local at = 5 * (i - 3) + 7
    all[i - 2] = {
      key = KEYS[i], shape = SHAPES[ARGV[at]], bound = tonumber(ARGV[at + 1]), amount = tonumber(ARGV[at + 2]),
      first = tonumber(ARGV[at + 3]), second = tonumber(ARGV[at + 4]),
    }
  end
  return all
end

-- The generation that Redis holds; 0: none.
local function generation_held() return tonumber(redis.call('GET', KEYS[2]) or 0) or 0 end

-- Status, the time, units by which what was just admitted is beyond its bounds; then for each counter: whether the amount
-- fits, units free, us until all are free, us to wait.
local function answer_of(status, all)
  local answer = { status, now, 0 }
  for _, c in ipairs(all) do
    if status == ADMITTED and c.amount > 0 then answer[3] = answer[3] + max(0, -c.shape.free(c)) end
    answer[#answer + 1] = c.fitted and 1 or 0
    answer[#answer + 1] = max(0, c.shape.free(c))
    answer[#answer + 1] = c.shape.reset(c)
    answer[#answer + 1] = c.fitted and 0 or c.shape.wait(c)
  end
  return answer
end

local function reserve()
  if generation > 0 and generation_held() ~= generation then return { LOST } end
  local known, ours = read(KEYS[1])
  if not ours then return { FOREIGN, 0 } end
  if known then return known[1] == OPEN and known[4] or { VOID } end
  local all, admitted = counters(), true
  for i, c in ipairs(all) do
    if not c.shape.load(c) then return { FOREIGN, i } end
    c.fitted = c.amount == 0 or c.shape.fits(c)
    admitted = admitted and c.fitted
  end
  if not admitted then return answer_of(REFUSED, all) end
  local marks, amounts = {}, {}
  for i, c in ipairs(all) do
    marks[i], amounts[i] = c.shape.add(c, c.amount), c.amount
  end
  local answer = answer_of(ADMITTED, all)
  for _, c in ipairs(all) do c.shape.save(c) end
  write(KEYS[1], { OPEN, marks, amounts, answer }, open_ms)
  return answer
end

-- The difference to what was reserved; answers by how many units the counter is over its bound now and was not before.
-- Debt of a calendar stays in the period that the reservation was made in.
local function correct(c, more, mark, reserved)
  local before = max(0, -c.shape.free(c))
  if more < 0 then
    c.shape.back(c, -more, mark, reserved)
  else
    c.shape.add(c, more, c.shape == calendar and mark or nil)
  end
  return max(0, max(0, -c.shape.free(c)) - before)
end

-- `amount` is what each counter is charged in the end. A counter that isn't ours is left alone; a lease ends even where
-- Redis has forgotten the reservation. Answers how many counters passed their bounds by that, and by how many units.
local function settle(cancelled)
  local known = read(KEYS[1])
  local open = known and known[1] == OPEN
  if known and not open then return { DONE } end
  local all, changed, debts, units = counters(), {}, 0, 0
  for i, c in ipairs(all) do
    c.more = open and c.amount - known[3][i] or 0
    if (c.shape == leases or c.more ~= 0) and c.shape.load(c) and (c.known or c.more > 0) then
      if c.shape == leases then
        c.ended = true
      else
        local over = correct(c, c.more, known[2][i], known[3][i])
        debts, units = debts + min(1, over), min(MOST, units + over)
      end
      changed[#changed + 1] = c
    end
  end
  for _, c in ipairs(changed) do c.shape.save(c) end
  if open then
    write(KEYS[1], { CLOSED }, CLOSED_MS)
    return { ADMITTED, debts, units }
  end
  if cancelled then
    write(KEYS[1], { CLOSED }, CANCELLED_MS)
  elseif #changed > 0 then
    -- A renewal that comes late must not bring its leases back.
    write(KEYS[1], { CLOSED }, CLOSED_MS)
  end
  return { VOID }
end

-- A call that runs keeps its leases, and Redis keeps remembering it; also where Redis had lost them.
local function renew()
  local known = read(KEYS[1])
  if known and known[1] == CLOSED then return { DONE } end
  local running = {}
  for _, c in ipairs(counters()) do
    if c.shape == leases and c.shape.load(c) then running[#running + 1] = c end
  end
  if known then redis.call('PEXPIRE', KEYS[1], text(open_ms)) end
  for _, c in ipairs(running) do c.shape.save(c) end
  return { ADMITTED }
end

-- What was spent without asking, as debt; once for each id. Debts of a period that has ended are paid.
local function owe()
  if read(KEYS[1]) then return { DONE } end
  local changed = {}
  for _, c in ipairs(counters()) do
    local stale = c.shape == calendar and period_end(c.first, max(0, now - c.second)) <= now
    if not stale and c.shape.load(c) then
      c.shape.add(c, c.amount)
      changed[#changed + 1] = c
    end
  end
  for _, c in ipairs(changed) do c.shape.save(c) end
  write(KEYS[1], { CLOSED }, OWED_MS)
  return { ADMITTED }
end

-- Where the counters stand: units used, units free, us until all are free. Writes nothing.
local function look()
  local answer = { ADMITTED }
  for i, c in ipairs(counters()) do
    if not c.shape.load(c) then return { FOREIGN, i } end
    answer[#answer + 1] = c.shape.used(c)
    answer[#answer + 1] = max(0, c.shape.free(c))
    answer[#answer + 1] = c.shape.reset(c)
  end
  return answer
end

-- What is known elsewhere of calendars that were lost: at least `amount` is used of the period that ends at `second`.
-- Done twice it changes nothing the second time.
local function restore()
  local changed = {}
  for _, c in ipairs(counters()) do
    if c.shape == calendar and c.shape.load(c) and c.border == c.second and c.used < c.amount then
      c.used = c.amount
      changed[#changed + 1] = c
    end
  end
  for _, c in ipairs(changed) do c.shape.save(c) end
  return { ADMITTED, #changed }
end

-- Counters begin anew under this generation, unless another gate was faster; answers the one that holds.
local function found()
  local held = generation_held()
  if held > 0 then return { ADMITTED, held } end
  redis.call('SET', KEYS[2], text(generation), 'PX', text(GENERATION_MS))
  return { ADMITTED, generation }
end

-- The gate `id` is there, for as long as the lease; answers how many gates are, and the generation of counters.
local function beat()
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', text(now))
  redis.call('ZADD', KEYS[1], text(now + lease), id)
  redis.call('PEXPIRE', KEYS[1], text(ceil_div(2 * lease, 1000)))
  local held = generation_held()
  if held > 0 then redis.call('PEXPIRE', KEYS[2], text(GENERATION_MS)) end
  return { ADMITTED, redis.call('ZCARD', KEYS[1]), held }
end

local OPERATIONS = {
  reserve = reserve, settle = function() return settle(false) end, cancel = function() return settle(true) end,
  renew = renew, owe = owe, look = look, restore = restore, found = found, beat = beat,
}
return OPERATIONS[ARGV[1]]()
