-- May all of this happen now? The buckets of one request, decided together and spent all or none; and beforehand, in the
-- same step, what is given back of what was spent for something that did not happen after all.
-- The formula and its terms are gcra.py's; the clock is the store's, so that every instance has the same one.
--
-- Call    EVALSHA gcra <m + g + n> KEYS ARGV
-- KEYS    the mark that g buckets were given back to, a string; none where ARGV[1] is 0
--         g buckets to give one back to; one named twice is given back twice
--         n different buckets to decide on
--         Each bucket is a string: its TAT, whole microseconds since the epoch; absent when empty
-- ARGV[1] how long the mark is kept, milliseconds: while it is there, nothing is given back. 0: without a mark
-- ARGV[2] g
-- ARGV[3] how many of the n, the last ones, have 1 taken from; those before them are only looked at
-- ARGV    then g times, in the order of KEYS: emission interval, microseconds
-- ARGV    then n times, in the order of KEYS:
--           interval   emission interval, microseconds
--           burst      how many an empty bucket takes
--           enforce    "1": its refusal refuses the whole request, and nothing is spent; "0": it is observed only,
--                      takes when it can, and refuses nobody
-- Returns flat integers: now (microseconds since the epoch), then g times
--           tat        microseconds since the epoch when it is empty, 0 if it is; -1 when it was given back before
--         then n times
--           allowed    1 if this bucket by itself would take one, 0 if not
--           remaining  how many more it takes, after what was spent here
--           retry      microseconds until it would take one; 0 if allowed
--           reset      microseconds until it is empty
--           tat        microseconds since the epoch when it is empty

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local answer = {now}

-- A bucket that is empty again needs no memory: it expires then, up to a millisecond late, never early.
local function keep(key, tat)
  -- %.0f, because a double prints as 1.7e+15.
  redis.call('SET', key, string.format('%.0f', tat), 'PX', string.format('%.0f', math.ceil((tat - now) / 1000)))
end

local given = tonumber(ARGV[2])
local before, first = 0, given
local again = false
if ARGV[1] ~= '0' then
  before, first = 1, given + 1
  again = not redis.call('SET', KEYS[1], 1, 'NX', 'PX', ARGV[1])
end
for i = 1, given do
  local key = KEYS[before + i]
  local tat = -1
  if not again then
    tat = tonumber(redis.call('GET', key) or 0) - tonumber(ARGV[3 + i])
    if tat > now then
      keep(key, tat)
    else
      -- What has leaked meanwhile cannot be given back: the bucket is empty, no more.
      redis.call('DEL', key)
      tat = 0
    end
  end
  answer[#answer + 1] = tat
end

local buckets = {}
local refused = false
for i = 1, #KEYS - first do
  local key, at = KEYS[first + i], given + 3 * i
  local interval, burst, enforce = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), ARGV[at + 3] == '1'
  local drain = interval * burst
  local tat = tonumber(redis.call('GET', key) or 0)
  if tat > now + drain then
    -- Fuller than full: the clock was set back, or the limit made smaller. Kept so, it would not leak until the clock
    -- has caught up, and refuse everybody for so long.
    tat = now + drain
    keep(key, tat)
  end
  tat = math.max(tat, now)
  local early = tat + interval - drain - now
  refused = refused or (enforce and early > 0)
  buckets[i] = {key = key, interval = interval, drain = drain, tat = tat, early = early}
end

local looked = #buckets - tonumber(ARGV[3])
for i, bucket in ipairs(buckets) do
  if i > looked and not refused and bucket.early <= 0 then
    bucket.tat = bucket.tat + bucket.interval
    keep(bucket.key, bucket.tat)
  end
  answer[#answer + 1] = bucket.early <= 0 and 1 or 0
  answer[#answer + 1] = math.floor((now + bucket.drain - bucket.tat) / bucket.interval)
  answer[#answer + 1] = math.max(bucket.early, 0)
  answer[#answer + 1] = bucket.tat - now
  answer[#answer + 1] = bucket.tat
end
return answer
