-- May all of this happen now? The buckets of one request, decided together and spent all or none; and beforehand, in the
-- same step, what is given back of what was spent for something that did not happen after all.
-- The formula and its terms are gcra.py's; the clock is the store's, so that every instance has the same one.
--
-- Call    EVALSHA gcra <m + g + n> KEYS ARGV
-- KEYS    the mark that g buckets were given back to, a string; or none
--         g buckets to give one back to; one named twice is given back twice
--         n different buckets to decide on
--         Each bucket is a string: its TAT, whole microseconds since the epoch; absent when empty
-- ARGV    of each key, in the order of KEYS, what is done with it:
--           "once MS"                      the mark is kept for so long, milliseconds; while it is there, nothing is
--                                          given back
--           "back INTERVAL"                one is given back
--           "look INTERVAL BURST ENFORCE"  it is decided on, and nothing taken
--           "take INTERVAL BURST ENFORCE"  it is decided on, and one taken where all may be
--           INTERVAL  emission interval, microseconds
--           BURST     how many an empty bucket takes
--           ENFORCE   1: its refusal refuses the whole request, and nothing is spent; 0: it is observed only, takes when
--                     it can, and refuses nobody
-- Returns flat integers: now (microseconds since the epoch), then g times
--           tat        microseconds since the epoch when it is empty, 0 if it is; -1 when it was given back before
--         then n times
--           allowed    1 if this bucket by itself would take one, 0 if not
--           remaining  how many more it takes, after what was spent here
--           retry      microseconds until it would take one; 0 if allowed
--           reset      microseconds until it is empty

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local answer = {now}

-- A bucket that is empty again needs no memory: it expires then, up to a millisecond late, never early.
local function keep(key, tat)
  -- %.0f, because a double prints as 1.7e+15.
  redis.call('SET', key, string.format('%.0f', tat), 'PX', string.format('%.0f', math.ceil((tat - now) / 1000)))
end

local function give_back(key, interval)
  local tat = tonumber(redis.call('GET', key) or 0) - interval
  if tat > now then
    keep(key, tat)
    return tat
  end
  -- What has leaked meanwhile cannot be given back: the bucket is empty, no more.
  redis.call('DEL', key)
  return 0
end

local again = false
local buckets = {}
local refused = false
for i, key in ipairs(KEYS) do
  local what, number, burst, enforce = string.match(ARGV[i], '^(%l+) (%d+) ?(%d*) ?([01]?)$')
  local interval = tonumber(number)
  if what == 'once' then
    again = not redis.call('SET', key, 1, 'NX', 'PX', number)
  elseif what == 'back' then
    answer[#answer + 1] = again and -1 or give_back(key, interval)
  else
    local drain = interval * tonumber(burst)
    local tat = tonumber(redis.call('GET', key) or 0)
    if tat > now + drain then
      -- Fuller than full: the clock was set back, or the limit made smaller. Kept so, it would not leak until the clock
      -- has caught up, and refuse everybody for so long.
      tat = now + drain
      keep(key, tat)
    end
    tat = math.max(tat, now)
    local early = tat + interval - drain - now
    refused = refused or (enforce == '1' and early > 0)
    buckets[#buckets + 1] =
      {key = key, interval = interval, drain = drain, tat = tat, early = early, is_taken = what == 'take'}
  end
end

for _, bucket in ipairs(buckets) do
  if bucket.is_taken and not refused and bucket.early <= 0 then
    bucket.tat = bucket.tat + bucket.interval
    keep(bucket.key, bucket.tat)
  end
  answer[#answer + 1] = bucket.early <= 0 and 1 or 0
  answer[#answer + 1] = math.floor((now + bucket.drain - bucket.tat) / bucket.interval)
  answer[#answer + 1] = math.max(bucket.early, 0)
  answer[#answer + 1] = bucket.tat - now
end
return answer
